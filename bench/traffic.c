/* The smallest TCP client and server that can load a published port; each enters a network namespace first.
 *
 *   traffic serve NETNS PORT                     answer until killed, one connection at a time
 *   traffic rate  NETNS HOST PORT SECONDS MAX    connections opened, answered and closed, one after another
 *   traffic bulk  NETNS HOST PORT SECONDS        one connection's throughput, to the last byte received
 *
 * rate prints connections each second, bulk prints Gbit/s. SECONDS is at most 10, so that no run is unbounded.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES (128 << 10)

static char chunk[CHUNK_BYTES];

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void enter(const char *netns)
{
    int fd = open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        die(netns);
    close(fd);
}

static struct sockaddr_in place(const char *host, const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        errno = EINVAL, die(host);
    return address;
}

/* A connection's first byte says what is wanted: 'c' one byte back, 'b' swallow all, then one byte back. */
static void serve(const char *port)
{
    struct sockaddr_in address = place("0.0.0.0", port);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) < 0 || listen(listener, 128) < 0)
        die("listen");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        char wanted;
        if (fd < 0)
            continue;
        if (recv(fd, &wanted, 1, 0) == 1) {
            while (wanted == 'b' && recv(fd, chunk, sizeof chunk, 0) > 0)
                ;
            send(fd, "k", 1, MSG_NOSIGNAL);
        }
        close(fd);
    }
}

static int dial(const struct sockaddr_in *address)
{
    struct timeval patience = {.tv_sec = 5};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* bounds connect, too */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fd < 0 || connect(fd, (const void *)address, sizeof *address) < 0)
        die("connect");
    return fd;
}

static void rate(const struct sockaddr_in *address, double seconds, long most)
{
    double start = now();
    long count = 0;
    struct linger reset = {1, 0}; /* no TIME_WAIT: the ephemeral ports must last */
    char answer;
    while (count < most && now() - start < seconds) {
        int fd = dial(address);
        if (send(fd, "c", 1, MSG_NOSIGNAL) != 1 || recv(fd, &answer, 1, 0) != 1)
            die("answer");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
        count++;
    }
    printf("%.1f\n", count / (now() - start));
}

static void bulk(const struct sockaddr_in *address, double seconds)
{
    int fd = dial(address);
    double start = now(), sent = 0;
    char answer;
    if (send(fd, "b", 1, MSG_NOSIGNAL) != 1)
        die("send");
    while (now() - start < seconds) {
        ssize_t got = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        if (got < 0)
            die("send");
        sent += got;
    }
    shutdown(fd, SHUT_WR);
    if (recv(fd, &answer, 1, 0) != 1)
        die("answer");
    printf("%.3f\n", sent * 8 / (now() - start) / 1e9);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "serve")) {
        enter(argv[2]);
        serve(argv[3]);
    }
    if (argc < 6 || atof(argv[5]) > 10) {
        fprintf(stderr, "usage: traffic serve|rate|bulk ... (see the head of traffic.c)\n");
        return 2;
    }
    enter(argv[2]);
    struct sockaddr_in address = place(argv[3], argv[4]);
    if (!strcmp(argv[1], "rate") && argc == 7)
        rate(&address, atof(argv[5]), atol(argv[6]));
    else
        bulk(&address, atof(argv[5]));
    return 0;
}
