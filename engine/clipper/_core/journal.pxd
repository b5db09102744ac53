from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector


cdef extern from "base/event_fd.h" namespace "clipper" nogil:
    cdef cppclass EventFd:
        int fd() noexcept
        void signal() noexcept
        uint64_t drain() noexcept


cdef extern from "selection/feedback_journal.h" namespace "clipper" nogil:
    ctypedef uint64_t EntryNumber
    cdef cppclass Byte "std::byte":
        pass
    cdef cppclass ByteSpan "std::span<const std::byte>":
        ByteSpan()
        ByteSpan(const Byte* data, size_t size)
        size_t size() noexcept
    cdef cppclass JournalSegment:
        uint32_t application
        EntryNumber first
        EntryNumber last
        vector[Byte] entries
    cdef cppclass JournalEntry:
        EntryNumber number
    cbool read_entry(ByteSpan& entries, JournalEntry& entry) except +
    enum class Waited "clipper::FeedbackJournal::Waited"(uint8_t):
        kDurable
        kGivenUp
        kLead
    cdef cppclass JournalCounts "clipper::FeedbackJournal::Counts":
        size_t bytes
        uint64_t dropped
        EntryNumber appended
        EntryNumber durable
    cdef cppclass FeedbackJournal:
        FeedbackJournal(EntryNumber last, size_t max_bytes) except +
        EntryNumber appended() noexcept
        Waited wait(EntryNumber number) noexcept
        Waited look(EntryNumber number) noexcept
        void lead() noexcept
        void stop_leading() noexcept
        const vector[JournalSegment]& take() except +
        void settle() noexcept
        void give_up() noexcept
        JournalCounts counts() noexcept
        EventFd& doorbell() noexcept


cdef class JournalCore:
    cdef unique_ptr[FeedbackJournal] journal
    cdef public object write             # what waits here; called by whoever leads
    cdef public object relieve           # reads the states that are waited for; False: it cannot

    cdef bint confirm(self) except -1
