// stream: what one client gets, checked: WebSocket frames, and in them updates that must come once and in order.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  int number;    // the client's
  int fd;        // where pings are answered
  long due;      // the index that must come next
  long got;      // messages so far
  bool through;  // nothing more is due
  bool faulty;
} stream;

typedef enum { GOES_ON, ENDS } outcome;

// What is owed: of the updates 0 to updates - 1, which belong to the jobs in turn, all, or those of a client's own job.
extern struct owed {
  long updates, jobs;
  bool per_job;
} owed;

// What all streams have got together. "fault" is the first thing that was wrong, in words.
extern struct tally {
  long delivered, skipped, repeated, unlinked, malformed, pings;
  int through;
  char fault[512];
} tally;

uint64_t now_ns(void);
stream new_stream(int number, int fd);

// Take the whole frames, which came at that time; *taken is how many bytes they were. Where the stream ENDS, the
// server has closed it, or sent what no gateway sends.
outcome take_frames(stream *s, const char *data, size_t len, uint64_t at_ns, size_t *taken);

// Note what is wrong with a client, in words that follow on "client 7".
__attribute__((format(printf, 2, 3))) void blame(stream *s, const char *format, ...);

// The latency in ms that this part of all updates did not exceed; -1 where none was measured.
double latency_ms(double part);
