#define _GNU_SOURCE
#include "stream.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BUCKETS = 300000, BUCKET_NS = 10000, MOST_FRAME_BYTES = 1 << 19, MOST_CONTROL_BYTES = 125 };
enum { TEXT = 0x81, CLOSE = 0x88, PING = 0x89, PONG = 0x8a };
enum { TAIL_BYTES = 140, HEAD_BYTES = 140 };  // an update begins with its sent_ns, and ends with its index and links

struct owed owed = {.jobs = 1};
struct tally tally;
static long latencies[BUCKETS];

uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

stream new_stream(int number, int fd) {
  return (stream){.number = number, .fd = fd, .due = owed.per_job ? number % owed.jobs : 0};
}

void blame(stream *s, const char *format, ...) {
  s->faulty = true;
  if (*tally.fault) return;
  int len = snprintf(tally.fault, sizeof tally.fault, "client %d ", s->number);
  va_list values;
  va_start(values, format);
  vsnprintf(tally.fault + len, sizeof tally.fault - (size_t)len, format, values);
  va_end(values);
  for (char *at = tally.fault; *at; at++)  // it stands in JSON
    if (*at < ' ' || *at == '"' || *at == '\\') *at = ' ';
}

double latency_ms(double part) {
  long count = 0, seen = 0;
  for (int i = 0; i < BUCKETS; i++) count += latencies[i];
  for (int i = 0; count && i < BUCKETS; i++)
    if ((double)(seen += latencies[i]) >= part * (double)count) return (i + 0.5) * BUCKET_NS / 1e6;
  return -1;
}

static void note_latency(long ns) {
  long bucket = ns / BUCKET_NS;
  latencies[bucket < 0 ? 0 : bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

// The number behind a name in the text, -2 where it is not there.
static long number_behind(const char *name, const char *text, size_t len) {
  const char *at = memmem(text, len, name, strlen(name));
  return at ? strtol(at + strlen(name), NULL, 10) : -2;
}

static void check_index(stream *s, long index) {
  long step = owed.per_job ? owed.jobs : 1;
  if (index != s->due) blame(s, "got index %ld where %ld was due", index, s->due);
  if (index < s->due) {
    tally.repeated++;
    return;
  }
  tally.skipped += (index - s->due + step - 1) / step;
  s->due = index + step;
  if (s->due >= owed.updates && !s->through) {
    s->through = true;
    tally.through++;
  }
}

static void take_update(stream *s, const char *text, size_t len, uint64_t at_ns) {
  size_t tail = len < TAIL_BYTES ? len : TAIL_BYTES, head = len < HEAD_BYTES ? len : HEAD_BYTES;
  long index = number_behind("\"index\":", text + len - tail, tail);
  long previous = number_behind("\"previous\":", text + len - tail, tail);
  long sent_ns = number_behind("\"sent_ns\":", text, head);
  tally.delivered++;
  s->got++;
  if (index < 0 || index >= owed.updates) {
    tally.malformed++;
    blame(s, "got what was never published: %.*s", (int)(len < 100 ? len : 100), text);
    return;
  }
  if (owed.per_job && index % owed.jobs != s->number % owed.jobs) {
    tally.malformed++;
    blame(s, "got index %ld, which is of another job", index);
    return;
  }
  if (previous != (index >= owed.jobs ? index - owed.jobs : -1)) {
    tally.unlinked++;
    blame(s, "got index %ld with previous %ld", index, previous);
  }
  check_index(s, index);
  if (sent_ns >= 0) note_latency((long)at_ns - sent_ns);
}

static void answer_ping(stream *s, const char *payload, size_t len) {
  char pong[6 + MOST_CONTROL_BYTES] = {(char)PONG, (char)(0x80 | len)};  // a mask of zeros leaves the payload as it is
  memcpy(pong + 6, payload, len);
  if (send(s->fd, pong, 6 + len, 0) < 0) blame(s, "could not answer a ping: %s", strerror(errno));
  tally.pings++;
}

static outcome take_frame(stream *s, unsigned char kind, const char *payload, size_t len, uint64_t at_ns) {
  if (kind == TEXT) {
    take_update(s, payload, len, at_ns);
    return GOES_ON;
  }
  if (kind == PING && len <= MOST_CONTROL_BYTES) {
    answer_ping(s, payload, len);
    return GOES_ON;
  }
  if (kind == CLOSE) {
    int code = len < 2 ? 1005 : (unsigned char)payload[0] << 8 | (unsigned char)payload[1];
    blame(s, "was closed with code %d after %ld updates", code, s->got);
    return ENDS;
  }
  tally.malformed++;
  blame(s, "got a frame of a kind that no gateway sends: %02x", kind);
  return ENDS;
}

outcome take_frames(stream *s, const char *data, size_t len, uint64_t at_ns, size_t *taken) {
  size_t at = 0;
  outcome out = GOES_ON;
  while (out == GOES_ON && len - at >= 2) {
    const unsigned char *head = (const unsigned char *)data + at;
    size_t head_len = head[1] < 126 ? 2 : head[1] == 126 ? 4 : 10, size = head_len == 2 ? head[1] : 0;
    if (len - at < head_len) break;
    for (size_t i = 2; i < head_len; i++) size = size << 8 | head[i];
    if (size > MOST_FRAME_BYTES) {
      tally.malformed++;
      blame(s, "got a frame larger than any update");
      out = ENDS;
    } else {
      if (len - at - head_len < size) break;
      out = take_frame(s, head[0], data + at + head_len, size, at_ns);
      at += head_len + size;
    }
  }
  *taken = at;
  return out;
}
