// floor: the least that any WebSocket server could do for the same work, to measure a gateway against.
//
//   floor PORT REDIS_PORT CHANNEL
//
// One thread subscribes to one channel of Redis, frames each payload once, and writes what one read of Redis has
// brought to each client with one call. It keeps no history, checks nothing, and waits for a client that is slow: what
// is left is the kernel's price of sending.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_FILES = 1 << 17, BUFFER_BYTES = 8 << 20, REQUEST_BYTES = 4096, EVENTS = 256 };

// The accept value that belongs to the one key that load.c sends (RFC 6455, section 1.3).
static const char WELCOME[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static int clients[MOST_FILES], client_count;
static char received[BUFFER_BYTES], frames[BUFFER_BYTES];
static size_t received_len;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static struct sockaddr_in loopback(const char *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static int listen_on(const char *port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
  struct sockaddr_in address = loopback(port);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) fail("listen");
  return fd;
}

static int subscribe(const char *port, const char *channel) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = loopback(port);
  if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("redis");
  dprintf(fd, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%s\r\n", strlen(channel), channel);
  return fd;
}

static void watch(int epoll, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll");
}

typedef struct {
  const char *at;
  size_t len;
} text;

// Read one line, without its end, from *at on; NULL where it is not whole.
static const char *take_line(const char **at) {
  const char *line = *at, *end = memchr(line, '\n', (size_t)(received + received_len - line));
  if (!end) return NULL;
  *at = end + 1;
  return line;
}

// Read one push of Redis, an array of three, from *at on. The payload of a message is its last text; the answer to
// SUBSCRIBE ends with a number, and has none. Give 0 where it is not whole.
static int take_push(const char **at, text *payload) {
  const char *next = *at, *line = take_line(&next);
  int elements = line ? atoi(line + 1) : 0;
  if (!line) return 0;
  for (int i = 0; i < elements; i++) {
    if (!(line = take_line(&next))) return 0;
    *payload = (text){NULL, 0};
    if (*line != '$') continue;
    *payload = (text){next, (size_t)atol(line + 1)};
    if ((size_t)(received + received_len - next) < payload->len + 2) return 0;
    next += payload->len + 2;
  }
  *at = next;
  return 1;
}

static size_t put_frame(char *to, text payload) {
  size_t head = 0;
  to[head++] = (char)0x81;
  if (payload.len < 126) {
    to[head++] = (char)payload.len;
  } else {
    to[head++] = 126;
    to[head++] = (char)(payload.len >> 8);
    to[head++] = (char)payload.len;
  }
  memcpy(to + head, payload.at, payload.len);
  return head + payload.len;
}

static void fan_out(void) {
  const char *at = received;
  size_t len = 0;
  text payload;
  // A frame's head is shorter than what Redis puts around a payload, so that the frames fit wherever the pushes did.
  while (at < received + received_len && take_push(&at, &payload))
    if (payload.at) len += put_frame(frames + len, payload);
  received_len -= (size_t)(at - received);
  memmove(received, at, received_len);
  for (int i = 0; len && i < client_count; i++)
    for (size_t sent = 0; sent < len;) {
      ssize_t now = send(clients[i], frames + sent, len - sent, 0);
      if (now <= 0) break;
      sent += (size_t)now;
    }
}

static void accept_all(int epoll, int listener) {
  int fd, yes = 1, bytes = 8 << 20;
  while ((fd = accept(listener, NULL, NULL)) >= 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    watch(epoll, fd);
  }
}

// The first thing that a client sends is its request, which on the loopback interface comes in one piece.
static void hear(int fd) {
  char request[REQUEST_BYTES];
  ssize_t len = recv(fd, request, sizeof request, 0);
  if (len > 4 && !memcmp(request, "GET ", 4) && client_count < MOST_FILES) {
    if (send(fd, WELCOME, sizeof WELCOME - 1, 0) > 0) clients[client_count++] = fd;
  } else if (len <= 0) {
    close(fd);
    for (int i = 0; i < client_count; i++)
      if (clients[i] == fd) clients[i--] = clients[--client_count];
  }
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fputs("floor PORT REDIS_PORT CHANNEL\n", stderr);
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  int epoll = epoll_create1(0), listener = listen_on(argv[1]), redis = subscribe(argv[2], argv[3]);
  watch(epoll, listener);
  watch(epoll, redis);
  for (;;) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        accept_all(epoll, listener);
      } else if (fd == redis) {
        ssize_t len = recv(redis, received + received_len, sizeof received - received_len, 0);
        if (len <= 0) return 0;
        received_len += (size_t)len;
        fan_out();
      } else {
        hear(fd);
      }
    }
  }
}
