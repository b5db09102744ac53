"""States of contexts on their way to a store that lasts, and back."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.application cimport ApplicationCore
from clipper._core.journal cimport (
    Byte, ByteSpan, FeedbackJournal, JournalCore, JournalEntry, read_entry,
)

cdef size_t _ALL = <size_t>-1
# Contexts that may wait to be written, as a share of the memory for contexts.
cdef size_t _QUEUE_SHARE = 8
cdef size_t _SLOT_BYTES = 16


cdef extern from "selection/context_store.h" namespace "clipper" nogil:
    cdef cppclass ContextBatch:
        vector[uint64_t] contexts
        vector[double] numbers
    cdef cppclass DrainedContextStore:
        void take_spilled(ContextBatch& batch, size_t most) except +
        void take_wanted(vector[uint64_t]& contexts, size_t most) except +
        void hold(cbool holds) noexcept


cdef extern from "selection/context_table.h" namespace "clipper" nogil:
    cdef cppclass Doubles "std::span<const double>":
        Doubles()
        Doubles(const double* data, size_t size)
    enum class Observed(unsigned char):
        kLearned
        kNoted
        kRefused
    cdef cppclass LastingTable "clipper::ContextTable":
        size_t shards() noexcept
        size_t kept_words() noexcept
        cbool put_loaded(uint64_t context, Doubles stored) noexcept
        uint64_t take_changed(size_t shard, ContextBatch& batch) except +
        void save_own(double* numbers) noexcept
        void restore_own(Doubles numbers) noexcept
        Observed replay(const JournalEntry& entry) noexcept
        native.ContextCounts counts() noexcept


cdef extern from *:
    """
    #include "selection/context_store.h"
    #include "selection/feedback_journal.h"
    #include "serving/application.h"

    /// Gives an application a table whose states last; nullptr: its policy learns nothing.
    static clipper::ContextTable* clipper_make_lasting(clipper::Application& application,
                                                       clipper::FeedbackJournal& journal,
                                                       clipper::ContextOptions options,
                                                       std::size_t queued_bytes) {
      const auto models = static_cast<std::uint16_t>(application.models.size());
      if (application.policy == nullptr || application.policy->state_words(models) == 0) {
        return nullptr;
      }
      const std::size_t kept = application.policy->state_words(models) + 1;
      auto store = std::make_unique<clipper::DrainedContextStore>(
          kept, std::max(clipper::ContextSlots::fit(kept, queued_bytes), 64U),
          &journal.doorbell());
      application.contexts = std::make_unique<clipper::ContextTable>(
          *application.policy, models, options, std::move(store));
      return application.contexts.get();
    }
    static clipper::DrainedContextStore* clipper_store_of(clipper::ContextTable& table) {
      return static_cast<clipper::DrainedContextStore*>(table.store());
    }
    """
    cdef cppclass ContextOptions "clipper::ContextOptions":
        size_t max_bytes
        cbool lasts
        FeedbackJournal* journal
        uint32_t application
    LastingTable* make_lasting "clipper_make_lasting"(
        native.Application& application, FeedbackJournal& journal, ContextOptions options,
        size_t queued_bytes) except +
    DrainedContextStore* store_of "clipper_store_of"(LastingTable& table)


@cython.final
cdef class LastingStates:
    """An application's states, for whoever writes and reads them. One thread at a time.

    `words` is 0 if its policy learns nothing: then there is nothing to do.
    """

    cdef ApplicationCore application
    cdef LastingTable* table
    cdef DrainedContextStore* store
    cdef readonly size_t words

    def __init__(self, ApplicationCore application, JournalCore journal, uint32_t number,
                 size_t max_bytes, bint is_journaled):
        cdef ContextOptions options
        options.max_bytes = max_bytes - max_bytes // _QUEUE_SHARE
        options.lasts = True
        options.application = number
        if is_journaled:
            options.journal = journal.journal.get()
        self.application = application
        self.table = make_lasting(application.handle[0], journal.journal.get()[0], options,
                                  max_bytes // _QUEUE_SHARE)
        if self.table != NULL:
            self.store = store_of(self.table[0])
            self.words = self.table.kept_words()
            application.journal = journal

    @property
    def shards(self):
        return self.table.shards()

    @property
    def waiting(self):
        """Contexts whose state somebody waits for."""
        return self.table.counts().waiting

    def take_spilled(self):
        """What was evicted and must be written: (context, state) each."""
        cdef ContextBatch batch
        self.store.take_spilled(batch, _ALL)
        return self._pairs(&batch)

    def take_changed(self, size_t shard):
        """What changed in a shard since it was last taken, and the first entry of the journal that
        waits to be learned there, or None.
        """
        cdef ContextBatch batch
        cdef uint64_t first = self.table.take_changed(shard, batch)
        return self._pairs(&batch), None if first == <uint64_t>-1 else first

    cdef list _pairs(self, ContextBatch* batch):
        cdef size_t i
        cdef list pairs = []
        for i in range(batch.contexts.size()):
            pairs.append((<int64_t>batch.contexts[i], PyBytes_FromStringAndSize(
                <const char*>(batch.numbers.data() + i * self.words), self.words * 8)))
        return pairs

    def hold(self, bint holds):
        """While it holds, what was evicted does not come back without having been taken."""
        self.store.hold(holds)

    def take_wanted(self):
        """Contexts that somebody waits for."""
        cdef vector[uint64_t] wanted
        self.store.take_wanted(wanted, _ALL)
        return [<int64_t>wanted[i] for i in range(wanted.size())]

    def put_loaded(self, int64_t context, bytes state):
        """Bring a state that was wanted; None: there is none. False: no room, come back later."""
        cdef vector[double] numbers
        cdef Doubles given
        if state is not None:
            self._read(state, &numbers)
            given = Doubles(numbers.data(), numbers.size())
        return self.table.put_loaded(<uint64_t>context, given)

    cdef int _read(self, bytes state, vector[double]* numbers) except -1:
        if <size_t>PyBytes_GET_SIZE(state) != self.words * 8:
            raise ValueError(f"a state has {len(state)} bytes: {self.words * 8} are expected")
        numbers.resize(self.words)
        memcpy(numbers.data(), PyBytes_AS_STRING(state), self.words * 8)
        return 0

    def own(self):
        """The application's own state."""
        cdef vector[double] numbers
        numbers.resize(self.words)
        self.table.save_own(numbers.data())
        return PyBytes_FromStringAndSize(<const char*>numbers.data(), self.words * 8)

    def restore_own(self, bytes state):
        cdef vector[double] numbers
        self._read(state, &numbers)
        self.table.restore_own(Doubles(numbers.data(), numbers.size()))

    def replay(self, bytes entries, Py_ssize_t start):
        """Learn entries of the journal, from a place on; returns the place up to where.

        Stops where too much waits to be loaded. Raises ValueError where they are damaged.
        """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(entries)
        cdef ByteSpan rest = ByteSpan(<const Byte*>PyBytes_AS_STRING(entries) + start, size - start)
        cdef JournalEntry entry
        cdef Py_ssize_t place = start
        while read_entry(rest, entry):
            if self.table.replay(entry) == Observed.kRefused:
                return place
            place = size - <Py_ssize_t>rest.size()
        if place != size:
            raise ValueError(f"{size - place} bytes at the end of a journal are no entry")
        return place
