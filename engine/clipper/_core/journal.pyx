"""The journal of feedback: what waits to be written down, and who waits for it."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd* ends, unsigned long count, int milliseconds) noexcept


@cython.final
cdef class JournalCore:
    """One engine's journal. Whoever leads writes it, with the function that was given."""

    def __init__(self, EntryNumber last, size_t max_bytes, write, relieve):
        self.journal.reset(new FeedbackJournal(last, max_bytes))
        self.write = write
        self.relieve = relieve

    cdef bint confirm(self) except -1:
        """Wait until all entries last, or could not be written: whether they last.

        Writes them itself, with all that others have added, if nobody does.
        """
        cdef FeedbackJournal* journal = self.journal.get()
        cdef EntryNumber number = journal.appended()
        cdef Waited waited
        while True:
            with nogil:
                waited = journal.wait(number)
            if waited != Waited.kLead:
                return waited == Waited.kDurable
            try:
                self.write()
            finally:
                journal.stop_leading()

    def wait_for_work(self, double seconds):
        """Sleep until somebody rings, or so long; without the GIL."""
        cdef EventFd* doorbell = &self.journal.get().doorbell()
        cdef pollfd end
        cdef int milliseconds = <int>(seconds * 1e3)
        end.fd = doorbell.fd()
        end.events = POLLIN
        with nogil:
            poll(&end, 1, milliseconds)
            doorbell.drain()

    def ring(self):
        """Wake whoever sleeps in wait_for_work."""
        self.journal.get().doorbell().signal()

    def lead(self):
        """Wait until nobody leads, and lead: then stop_leading() must follow."""
        with nogil:
            self.journal.get().lead()

    def stop_leading(self):
        self.journal.get().stop_leading()

    def take(self):
        """All that waits: (application, first, last, entries) each. For whoever leads."""
        cdef const vector[JournalSegment]* taken = &self.journal.get().take()
        cdef size_t i
        segments = []
        for i in range(taken.size()):
            segments.append((
                taken[0][i].application, taken[0][i].first, taken[0][i].last,
                PyBytes_FromStringAndSize(<const char*>taken[0][i].entries.data(),
                                          taken[0][i].entries.size())))
        return segments

    def settle(self):
        """What was taken is written."""
        self.journal.get().settle()

    def give_up(self):
        """Nothing can be written now: tell who waits."""
        self.journal.get().give_up()

    @property
    def appended(self):
        """The number of the last entry."""
        return self.journal.get().appended()

    def look(self, EntryNumber number):
        """Whether an entry lasts; None: nobody has tried to write it."""
        cdef Waited waited = self.journal.get().look(number)
        return None if waited == Waited.kLead else waited == Waited.kDurable

    def counts(self):
        """Entries, and bytes of those that wait to be written."""
        cdef JournalCounts counts = self.journal.get().counts()
        return {"entries": counts.appended, "written": counts.durable, "bytes": counts.bytes,
                "dropped": counts.dropped}
