/*
 * The launcher: hands one call of an executable front end to the warm service and gives back its answer.
 *
 * Theory of operation. An engine runs us as it would run any CNI, netavark or OCI executable. We read standard
 * input whole, open the container's network namespace and our own, and send all of it with our name, arguments
 * and environment to the service's socket. The service answers with an exit code and what to write. Where there
 * is no service, or it declines, or it is lost before it answers, we become the in-process Python (execve), which
 * does the same work through the same code, with what we read given back to it as standard input.
 *
 * What we are is patched into `block` when the launcher is installed (build.py): one compiled program, many names.
 *
 * The wire, all numbers little-endian u32 (docs/service.md has the whole of it, wire.py is the Python twin):
 *   message   "NDRV", protocol (1), kind, length of the body, body
 *   RUN       lengths of five fields, then the fields: product version, program, arguments and environment
 *             (each string ends with a zero byte), standard input. With the first byte come, by SCM_RIGHTS, our
 *             own network namespace and, where there is one, the container's.
 *   WORKING   no body: still at it, sent every second
 *   ANSWER    exit code, lengths of the two outputs, standard output, standard error
 *   DECLINED  the reason, as text
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MARKER "netdrivers-executable"
#define BLOCK_SIZE 16384

enum { PROTOCOL = 1, RUN = 1, WORKING = 16, ANSWER = 17, DECLINED = 18 };
enum { HEADER_SIZE = 16, FIELDS = 5, BODY_LIMIT = 64 << 20 };
enum { SILENCE_MS = 6000, ANSWER_LIMIT_S = 120, TRY_AGAIN_LATER = 11, CANNOT_RUN = 100 };
enum mode { AUTO, OFF, REQUIRE };

/* Marker, product version, program, then the in-process command; zero bytes between, an empty string ends it. */
char block[BLOCK_SIZE] = MARKER;

struct buffer {
    char *data;
    size_t size, room;
};

struct call {
    const char *version, *program, *command;
    int argc;
    char **argv;
    struct buffer input;
    int input_taken;    /* standard input was read and must be given back before execve */
    const char *trouble; /* why the service did not do it, for messages */
};

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, -1);
        } else if (n < 0 && errno != EINTR) {
            _exit(1);
        } else if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
}

static void write_text(int fd, const char *text) {
    write_all(fd, text, strlen(text));
}

/* A netavark plugin is known by its name; every other program answers errors as CNI does. */
static int is_netavark(const char *program) {
    return strncmp(program, "netdrivers-", 11) == 0;
}

/* Ends with an error in the front end's form. code: the CNI error code, "11" or "100". */
static void fail(const struct call *call, const char *code, const char *message) {
    if (is_netavark(call->program)) {
        write_text(1, "{\"error\":\"");
    } else {
        write_text(1, "{\"cniVersion\":\"1.0.0\",\"code\":");
        write_text(1, code);
        write_text(1, ",\"msg\":\"");
    }
    write_text(1, message);
    for (const char *c = call->trouble ? call->trouble : ""; *c; c++) {
        if (c == call->trouble)
            write_text(1, ": ");
        write_all(1, *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? "'" : c, 1);
    }
    write_text(1, "\"}\n");
    _exit(1);
}

static void grow(struct call *call, struct buffer *buffer, size_t more) {
    if (buffer->size + more <= buffer->room)
        return;
    size_t room = buffer->room ? buffer->room : 4096;
    while (room < buffer->size + more)
        room *= 2;
    buffer->data = realloc(buffer->data, room);
    buffer->room = room;
    if (!buffer->data)
        fail(call, "100", "out of memory");
}

static void append(struct call *call, struct buffer *buffer, const void *data, size_t size) {
    grow(call, buffer, size);
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

static void put_u32(void *at, uint32_t value) {
    unsigned char *byte = at;
    for (int i = 0; i < 4; i++)
        byte[i] = (unsigned char)(value >> (8 * i));
}

static uint32_t get_u32(const void *at) {
    const unsigned char *byte = at;
    return byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
}

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether fd became ready for events before the deadline (ms of now_ms). */
static int ready(int fd, short events, int64_t deadline) {
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd wanted = {.fd = fd, .events = events};
        int n = left > 0 ? poll(&wanted, 1, (int)left) : 0;
        if (n >= 0 || errno != EINTR)
            return n > 0;
    }
}

static int is_hook(const char *program) {
    return strcmp(program, "netdrivers-oci-hook") == 0;
}

/* Reads standard input to its end. A terminal, netavark's `info` and LXC's hooks have nothing to say. */
static void take_input(struct call *call) {
    if (isatty(0) || (is_netavark(call->program) && call->argc > 1 && strcmp(call->argv[1], "info") == 0) ||
        (is_hook(call->program) && getenv("LXC_HOOK_TYPE")))
        return;
    for (call->input_taken = 1;;) {
        grow(call, &call->input, 65536);
        ssize_t n = read(0, call->input.data + call->input.size, call->input.room - call->input.size);
        if (n > 0)
            call->input.size += (size_t)n;
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            return;
        else if (errno == EAGAIN)
            ready(0, POLLIN, now_ms() + SILENCE_MS);
    }
}

/* Becomes the in-process Python, its standard input what was ours. */
static void run_in_process(struct call *call) {
    if (call->input_taken) {
        int memory = memfd_create("stdin", MFD_CLOEXEC);
        if (memory < 0)
            fail(call, "100", "memfd_create failed");
        write_all(memory, call->input.data, call->input.size);
        lseek(memory, 0, SEEK_SET);
        dup2(memory, 0);
    }
    size_t count = 0;
    for (const char *word = call->command; *word; word += strlen(word) + 1)
        count++;
    const char **argv = calloc(count + (size_t)call->argc + 1, sizeof *argv);
    if (!argv)
        fail(call, "100", "out of memory");
    count = 0;
    for (const char *word = call->command; *word; word += strlen(word) + 1)
        argv[count++] = word;
    for (int i = 1; i < call->argc; i++)
        argv[count++] = call->argv[i];
    if (count && *call->command)
        execv(call->command, (char *const *)argv);
    call->trouble = call->command;
    fail(call, "100", "cannot run the in-process command");
}

/* The digits of the member "pid" in a container's state, a JSON object whose other values are strings; "" without.
   Within a string the closing quote of "pid" would be escaped, so this finds the member and nothing else. */
static const char *state_pid(const struct buffer *state, size_t *length) {
    const char *at = state->data, *end = at + state->size;
    while (at && (at = memmem(at, (size_t)(end - at), "\"pid\"", 5))) {
        for (at += 5; at < end && strchr(" \t\r\n:", *at) && *at; at++)
            ;
        for (*length = 0; at + *length < end && at[*length] >= '0' && at[*length] <= '9'; ++*length)
            ;
        if (*length)
            return at;
    }
    *length = 0;
    return "";
}

/* The namespace of the process that a hook is about; its number means something only where the caller is. */
static int open_process(const struct call *call) {
    const char *pid = getenv("LXC_PID");
    char path[64];
    size_t length = pid ? strspn(pid, "0123456789") : 0;
    if (!pid)
        pid = state_pid(&call->input, &length);
    if (length == 0 || length > 20)
        return -1;
    strcpy(mempcpy(stpcpy(path, "/proc/"), pid, length), "/ns/net");
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The namespace that the call is about: CNI says it by environment, netavark by its second argument. */
static int open_container(const struct call *call) {
    const char *path = getenv("CNI_NETNS");
    if (is_hook(call->program))
        return open_process(call);
    if (!path && call->argc > 2 && (strcmp(call->argv[1], "setup") == 0 || strcmp(call->argv[1], "teardown") == 0))
        path = call->argv[2];
    return path && *path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
}

/* A connection to the service, or -1. Never waits: a full backlog is a busy service. */
static int connect_service(struct call *call) {
    const char *dir = getenv("NETDRIVERS_STATE_DIR");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t size = sizeof peer;
    dir = dir && *dir ? dir : "/run/netdrivers";
    call->trouble = "its path is too long";
    if (strlen(dir) + sizeof "/service.sock" > sizeof address.sun_path)
        return -1;
    stpcpy(stpcpy(address.sun_path, dir), "/service.sock");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        /* The state directory may be anybody's: only root, or ourselves, is told what we were told. */
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == 0 || peer.uid == geteuid()))
            return fd;
        call->trouble = "it runs as another user";
    } else {
        call->trouble = strerror(errno);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Sends the request; 0 when there is no answer to wait for. A service that hung up may have said why. */
static int send_request(struct call *call, int fd) {
    struct buffer head = {0};
    char fixed[HEADER_SIZE + 4 * FIELDS] = "NDRV";
    size_t ends[FIELDS - 1];
    int spaces[2] = {open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), open_container(call)};

    call->trouble = "the network namespace of the caller is unknown";
    if (spaces[0] < 0)
        return 0;
    append(call, &head, fixed, sizeof fixed);
    append(call, &head, call->version, strlen(call->version));
    ends[0] = head.size;
    append(call, &head, call->program, strlen(call->program));
    ends[1] = head.size;
    for (int i = 1; i < call->argc; i++)
        append(call, &head, call->argv[i], strlen(call->argv[i]) + 1);
    ends[2] = head.size;
    for (char **variable = environ; *variable; variable++)
        append(call, &head, *variable, strlen(*variable) + 1);
    ends[3] = head.size;

    size_t body = head.size - HEADER_SIZE + call->input.size;
    call->trouble = "the request is too large for it";
    if (body > BODY_LIMIT)
        return 0;
    put_u32(head.data + 4, PROTOCOL);
    put_u32(head.data + 8, RUN);
    put_u32(head.data + 12, (uint32_t)body);
    size_t before = sizeof fixed;
    for (int i = 0; i < FIELDS - 1; before = ends[i], i++)
        put_u32(head.data + HEADER_SIZE + 4 * i, (uint32_t)(ends[i] - before));
    put_u32(head.data + HEADER_SIZE + 4 * (FIELDS - 1), (uint32_t)call->input.size);

    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof spaces)];
    } control = {0};
    size_t carried = (spaces[1] < 0 ? 1 : 2) * sizeof spaces[0];
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(carried);
    memcpy(CMSG_DATA(&control.header), spaces, carried);
    struct iovec parts[2] = {{head.data, head.size}, {call->input.data, call->input.size}};
    struct msghdr message = {
        .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = CMSG_SPACE(carried)};

    call->trouble = "it does not take the request";
    for (size_t left = head.size + call->input.size; left > 0;) {
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EPIPE || errno == ECONNRESET)
                return 1;
            if (errno != EINTR && (errno != EAGAIN || !ready(fd, POLLOUT, now_ms() + SILENCE_MS)))
                return 0;
            continue;
        }
        message.msg_control = NULL; /* the descriptors went with the first byte */
        message.msg_controllen = 0;
        left -= (size_t)n;
        for (int i = 0; i < 2; i++) {
            size_t gone = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + gone;
            parts[i].iov_len -= gone;
            n -= (ssize_t)gone;
        }
    }
    return 1;
}

/* Receives exactly size bytes; 0 when the connection is lost, or silent for too long. */
static int receive(struct call *call, int fd, char *data, size_t size) {
    while (size > 0) {
        ssize_t n = recv(fd, data, size, 0);
        call->trouble = "it was lost before it answered";
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return 0;
        call->trouble = "it fell silent";
        if (n < 0 && errno == EAGAIN && !ready(fd, POLLIN, now_ms() + SILENCE_MS))
            return 0;
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return 1;
}

/* Waits for the answer and exits with it; comes back when there will be none from this service. */
static void await_answer(struct call *call, int fd, int limit_s) {
    int64_t deadline = now_ms() + (int64_t)limit_s * 1000;
    for (;;) {
        char header[HEADER_SIZE];
        if (!receive(call, fd, header, sizeof header))
            return;
        uint32_t kind = get_u32(header + 8), size = get_u32(header + 12);
        call->trouble = "it speaks another protocol";
        if (memcmp(header, "NDRV", 4) != 0 || size > BODY_LIMIT)
            return;
        char *body = calloc(1, (size_t)size + 1);
        if (!body)
            fail(call, "100", "out of memory");
        if (!receive(call, fd, body, size))
            return;
        if (kind == ANSWER && size >= 12 && get_u32(body + 4) <= size - 12) {
            uint32_t out = get_u32(body + 4);
            write_all(1, body + 12, out);
            write_all(2, body + 12 + out, size - 12 - out);
            _exit((int)(get_u32(body) & 0xff));
        }
        call->trouble = body;
        if (kind != WORKING)
            return;
        /* Alive and still working: doing it a second time beside it would help nobody. */
        call->trouble = "no answer in time (NETDRIVERS_SERVICE_TIMEOUT)";
        if (now_ms() >= deadline)
            fail(call, "11", "the netdrivers service is still at work");
        free(body);
    }
}

static enum mode chosen_mode(void) {
    const char *word = getenv("NETDRIVERS_SERVICE");
    if (!word || !*word || strcmp(word, "auto") == 0)
        return AUTO;
    if (strcmp(word, "off") == 0)
        return OFF;
    if (strcmp(word, "require") == 0)
        return REQUIRE;
    write_text(2, "netdrivers: NETDRIVERS_SERVICE is none of auto, off, require; taken as auto\n");
    return AUTO;
}

int main(int argc, char **argv) {
    struct call call = {.argc = argc, .argv = argv};
    const char *limit = getenv("NETDRIVERS_SERVICE_TIMEOUT");
    int limit_s = limit ? atoi(limit) : 0;

    /* A socket must not become standard output of an engine that closed its own. */
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return 1;

    const char *word = block;
    __asm__("" : "+r"(word)); /* the compiler must not believe the initialiser: the block was patched since */
    call.version = word + strlen(word) + 1;
    call.program = call.version + strlen(call.version) + 1;
    call.command = call.program + strlen(call.program) + 1;
    if (!*call.program && argc > 0) /* a launcher for no name in particular goes by how it was called */
        call.program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];

    enum mode mode = chosen_mode();
    if (mode != OFF) {
        take_input(&call);
        int fd = connect_service(&call);
        if (fd >= 0 && send_request(&call, fd))
            await_answer(&call, fd, limit_s > 0 ? limit_s : ANSWER_LIMIT_S);
    }
    if (mode == REQUIRE)
        fail(&call, "11", "the netdrivers service is not available");
    run_in_process(&call);
}
