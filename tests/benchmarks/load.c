// load: many WebSocket clients in one thread, each of which checks that it gets every update once and in order.
//
//   load --port PORT --path /nodes/NODE --clients 1000 --updates 2000
//   load --port PORT --path /nodes/NODE/jobs/job-%d --clients 100 --updates 2000 --jobs 100 --per-job
//
// The updates of a run have the indexes 0 to --updates less 1, and belong to --jobs jobs in turn: each one's "previous"
// is its index less the number of jobs, or -1. A client is owed all of them, or with --per-job those of the job whose
// number is its own, modulo --jobs. %d in the path is the client's number. "sent_ns" in a state, by the monotonic
// clock, gives the latency.
//
// On standard output it says "open" when every client is open or has failed, and "read" when all that may come has; at
// its end it prints one line of JSON. With --stalled, so many clients stop reading once they are open: "read" is then
// of the others, and at a line on standard input the stalled read on, until "read" is said again. It ends by itself
// where updates are owed, and always with its input. The exit status is 1 where anything was wrong.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"

enum { BUFFER_BYTES = 1 << 20, EVENTS = 512, INPUT = -1 };
static const double SETTLE_S = 0.2;  // so long after the last update one that comes twice is waited for

typedef enum { UNBORN, CONNECTING, ASKING, OPEN, STALLED, CLOSED } phase;
typedef struct {
  stream stream;
  phase phase;
  char *rest;  // of a frame, or of the handshake's answer, that is not whole yet
  size_t rest_len;
} client;

static struct {
  int port, clients, stalled, at_once;
  double timeout_s;
  const char *path;
} want = {.clients = 1, .at_once = 100, .timeout_s = 30, .path = "/"};

static client *clients;
static int born, pending, opened, refused, closed, gone;  // gone: closed before it was through
static double began_s, opened_s, moved_s, last_s;
static char buffer[BUFFER_BYTES + 1];  // the last byte stays 0: a number may stand at the end
static int epoll_fd;

static double now_s(void) { return (double)now_ns() / 1e9; }

static void say(const char *word) {
  puts(word);
  fflush(stdout);
}

static void listen_to(int how, int fd, int number, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = number};
  epoll_ctl(epoll_fd, how, fd, &event);
}

static void leave(client *c) {
  if (c->phase == CONNECTING || c->phase == ASKING) {
    pending--;
    refused++;
  }
  c->phase = CLOSED;
  close(c->stream.fd);
  closed++;
  if (!c->stream.through) gone++;
}

static void be_born(int number) {
  client *c = &clients[number];
  int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)want.port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  *c = (client){.stream = new_stream(number, fd), .phase = CONNECTING};
  pending++;
  if (fd < 0) {
    blame(&c->stream, "has no socket: %s", strerror(errno));
    leave(c);
    return;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  connect(fd, (struct sockaddr *)&to, sizeof to);  // what comes of it, sending the request tells
  listen_to(EPOLL_CTL_ADD, fd, number, EPOLLOUT);
}

static void ask(client *c) {
  char request[1024], number[16] = "";
  const char *place = strstr(want.path, "%d"), *behind = place ? place + 2 : "";
  int before = place ? (int)(place - want.path) : (int)strlen(want.path);
  if (place) snprintf(number, sizeof number, "%d", c->stream.number);
  int len = snprintf(request, sizeof request,
                     "GET %.*s%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                     before, want.path, number, behind, want.port);
  if (send(c->stream.fd, request, (size_t)len, 0) != len) {
    blame(&c->stream, "could not connect: %s", strerror(errno));
    leave(c);
    return;
  }
  c->phase = ASKING;
  listen_to(EPOLL_CTL_MOD, c->stream.fd, c->stream.number, EPOLLIN);
}

// Take the handshake's answer where it is whole; give how many bytes it was.
static size_t take_answer(client *c, const char *data, size_t len) {
  const char *end = memmem(data, len, "\r\n\r\n", 4);
  if (!end) return 0;
  if (memcmp(data, "HTTP/1.1 101", 12)) {
    blame(&c->stream, "was refused: %.*s", (int)(len < 200 ? len : 200), data);
    leave(c);
    return len;
  }
  pending--;
  opened++;
  moved_s = opened_s = now_s();
  c->phase = OPEN;
  if (c->stream.number < want.stalled) {
    c->phase = STALLED;
    listen_to(EPOLL_CTL_DEL, c->stream.fd, 0, 0);
  }
  return (size_t)(end + 4 - data);
}

static size_t take_open(client *c, const char *data, size_t len) {
  size_t taken;
  uint64_t at_ns = now_ns();
  moved_s = last_s = (double)at_ns / 1e9;
  if (take_frames(&c->stream, data, len, at_ns, &taken) == ENDS) leave(c);
  return taken;
}

static void keep_rest(client *c, const char *data, size_t len) {
  if (!len && !c->rest_len) return;
  free(c->rest);
  c->rest = len ? memcpy(malloc(len), data, len) : NULL;
  c->rest_len = len;
}

static void hear(client *c) {
  while (c->phase == ASKING || c->phase == OPEN) {
    if (c->rest_len) memcpy(buffer, c->rest, c->rest_len);
    size_t room = BUFFER_BYTES - c->rest_len, taken = 0;
    ssize_t now = recv(c->stream.fd, buffer + c->rest_len, room, 0);
    if (now < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (now <= 0) {
      blame(&c->stream, "lost its connection after %ld updates", c->stream.got);
      leave(c);
      return;
    }
    size_t len = c->rest_len + (size_t)now;
    if (c->phase == ASKING) taken = take_answer(c, buffer, len);
    if (c->phase == OPEN) taken += take_open(c, buffer + taken, len - taken);
    keep_rest(c, buffer + taken, len - taken);
    if ((size_t)now < room) return;
  }
}

static void wake_stalled(void) {
  moved_s = now_s();
  for (int i = 0; i < want.stalled; i++)
    if (clients[i].phase == STALLED) {
      clients[i].phase = OPEN;
      listen_to(EPOLL_CTL_ADD, clients[i].stream.fd, i, EPOLLIN);
    }
  want.stalled = 0;
}

// Give whether the input goes on; a line of it wakes the stalled.
static bool hear_input(void) {
  char line[64];
  if (read(STDIN_FILENO, line, sizeof line) <= 0) return false;
  wake_stalled();
  return true;
}

static bool hear_all(void) {
  struct epoll_event events[EVENTS];
  int count = epoll_wait(epoll_fd, events, EVENTS, 50);
  bool goes_on = true;
  for (int i = 0; i < count; i++) {
    int number = events[i].data.fd;
    if (number == INPUT) goes_on = hear_input() && goes_on;
    else if (clients[number].phase == CONNECTING) ask(&clients[number]);
    else hear(&clients[number]);
  }
  return goes_on;
}

// Run until nothing more may come, or nothing has come for too long, or the input ends.
static void run(void) {
  bool said_open = false;
  int said_read = 0;  // of so many clients
  do {
    for (; born < want.clients && pending < want.at_once; born++) be_born(born);
    if (!said_open && opened + refused >= want.clients) {
      said_open = true;
      say("open");
    }
    int reading = want.clients - want.stalled;
    if (said_open && owed.updates && said_read < reading && tally.through + gone >= reading) {
      said_read = reading;
      say("read");
    }
    if (said_read == want.clients && now_s() - last_s > SETTLE_S) return;
    if ((owed.updates || !said_open) && now_s() - moved_s > want.timeout_s) return;
  } while (hear_all());
}

static bool report(void) {
  int whole = 0;
  for (int i = 0; i < want.clients; i++) {
    stream *s = &clients[i].stream;
    if (clients[i].phase < OPEN) blame(s, "got no answer to its handshake");
    if (owed.updates && !s->through) blame(s, "got %ld updates, and not the last that it is owed", s->got);
    whole += !s->faulty;
  }
  printf("{\"clients\": %d, \"opened\": %d, \"closed\": %d, \"whole\": %d, \"delivered\": %ld, \"skipped\": %ld, "
         "\"repeated\": %ld, \"unlinked\": %ld, \"malformed\": %ld, \"pings\": %ld, \"open_s\": %.4f, "
         "\"read_s\": %.4f, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"fault\": \"%s\"}\n",
         want.clients, opened, closed, whole, tally.delivered, tally.skipped, tally.repeated, tally.unlinked,
         tally.malformed, tally.pings, opened_s - began_s, last_s - began_s, latency_ms(0.5), latency_ms(0.99),
         tally.fault);
  return whole == want.clients;
}

static void take_options(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'}, {"path", 1, 0, 'w'},    {"clients", 1, 0, 'c'}, {"updates", 1, 0, 'u'}, {"timeout", 1, 0, 't'},
      {"jobs", 1, 0, 'j'}, {"per-job", 0, 0, 'J'}, {"stalled", 1, 0, 's'}, {"at-once", 1, 0, 'o'}, {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) switch (option) {
      case 'p': want.port = atoi(optarg); break;
      case 'w': want.path = optarg; break;
      case 'c': want.clients = atoi(optarg); break;
      case 'u': owed.updates = atol(optarg); break;
      case 'j': owed.jobs = atol(optarg); break;
      case 'J': owed.per_job = true; break;
      case 's': want.stalled = atoi(optarg); break;
      case 'o': want.at_once = atoi(optarg); break;
      case 't': want.timeout_s = atof(optarg); break;
      default: exit(2);
    }
  if (want.port <= 0 || want.clients <= 0 || want.at_once <= 0 || owed.jobs <= 0) {
    fputs("load --port PORT [--path /] [--clients 1] [--updates 0] [--jobs 1] [--per-job] [--stalled 0]\n"
          "     [--at-once 100] [--timeout 30 (seconds in which nothing comes)]\n", stderr);
    exit(2);
  }
}

int main(int argc, char **argv) {
  take_options(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  clients = calloc((size_t)want.clients, sizeof *clients);
  epoll_fd = epoll_create1(0);
  listen_to(EPOLL_CTL_ADD, STDIN_FILENO, INPUT, EPOLLIN);
  began_s = moved_s = now_s();
  run();
  return report() ? 0 : 1;
}
