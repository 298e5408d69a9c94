// The client of the bench: one thread, epoll and sendfile, so that it costs little beside the server it measures.
//
//   load upload KEY=VALUE...   create + PATCH; prints one line of JSON at the end
//       port path code=""      where to create, and the drop-off's code (sent with every request)
//       connections uploads    how many at once, on keep-alive connections, and how many in all
//       seconds=0              N: begin none after that long, however many are left
//       bytes chunk=0          of one upload, and of one PATCH (0: whole)
//       stall=0                1: send half of each, print "stalled", wait for a line on stdin, send the rest
//       progress=0             N: print "progress BYTES SECONDS" at each Nth part of all
//   load probe  port path code pause_us    create one upload, then HEAD it every so often until stdin ends
//   load get    port path code connections uploads bytes total
//       GET `path` so many times: ranges of `bytes` at random places of `total`, or all of it where bytes=0
//
// Exit status: 0; 2 a mistake or a failed system call; 3 the server answered something else; 4 nothing moved for 60 s.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { CREATE, APPEND, BODY, ANSWER, DRAIN, PAUSED, DONE };
enum request { POST, PATCH, HEAD, GET };

struct connection {
    int fd, out_length, out_sent, in_length, closing;
    enum state state;
    enum request asked;
    long offset, end, left; // of the upload; of this PATCH; of an answer's body
    double started;
    char location[1024], out[8192], in[16384];
};

static struct { // the command line
    int port, connections, stall, progress;
    long uploads, bytes, chunk, total, pause_us;
    double seconds;
    const char *path, *code;
} given = {.connections = 1, .uploads = 1, .path = "/", .code = "", .pause_us = 10000};

static const long SOURCE_BYTES = 64L << 20, TURN_BYTES = 1L << 20, INLINE_BYTES = 4096;
static int epoll, source, paused;
static long source_bytes, begun, finished, all_sent, next_progress;
static double *latencies, start;
static long latency_count;
static char *source_memory, last_location[1024];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void die(int status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    exit(status);
}

static uint64_t chance(void) { // xorshift: the bytes must not compress, nothing more
    static uint64_t x = 88172645463325252ULL;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

static void make_source(void) {
    source_bytes = given.bytes < SOURCE_BYTES ? given.bytes : SOURCE_BYTES;
    source = memfd_create("source", 0);
    long room = (source_bytes + 4096) & ~4095L;
    if (source < 0 || ftruncate(source, room)) die(2, "memfd: %s", strerror(errno));
    source_memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, source, 0);
    if (source_memory == MAP_FAILED) die(2, "mmap: %s", strerror(errno));
    for (long i = 0; i < room / 8; i++) ((uint64_t *)source_memory)[i] = chance();
}

static void connect_to_server(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(given.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&address, sizeof address)) die(2, "connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) die(2, "epoll_ctl: %s", strerror(errno));
    c->closing = 0;
}

static void again_later(struct connection *c) { // an edge-triggered descriptor that stays ready is reported anew
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

// ---- requests ------------------------------------------------------------------------------------------------

static void encode_name(long number, char *out) { // base64 of a name of 24 bytes, so without padding
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char name[32];
    snprintf(name, sizeof name, "file-%07d-%07ld.bin", getpid() % 10000000, number % 10000000);
    for (int i = 0; i < 24; i += 3) {
        unsigned bits = (unsigned)name[i] << 16 | (unsigned)name[i + 1] << 8 | (unsigned)name[i + 2];
        for (int j = 18; j >= 0; j -= 6) *out++ = digits[bits >> j & 63];
    }
    *out = 0;
}

static void request(struct connection *c, enum request asked, const char *method, const char *path, const char *more) {
    if (c->closing) {
        close(c->fd);
        connect_to_server(c);
    }
    int length = snprintf(c->out, sizeof c->out, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTus-Resumable: 1.0.0\r\n%s%s%s%s\r\n",
                          method, path, given.port, *given.code ? "Dropoff-Code: " : "", given.code,
                          *given.code ? "\r\n" : "", more);
    if (length >= (int)sizeof c->out - INLINE_BYTES) die(2, "a request is too long");
    c->out_length = length, c->out_sent = 0, c->in_length = 0, c->asked = asked;
}

static void ask_create(struct connection *c) {
    char name[40], more[256];
    encode_name(begun, name);
    snprintf(more, sizeof more, "Upload-Length: %ld\r\nUpload-Metadata: filename %s\r\nContent-Length: 0\r\n", given.bytes, name);
    c->started = now(), c->offset = 0;
    request(c, POST, "POST", given.path, more);
    c->state = CREATE;
}

static void ask_append(struct connection *c) {
    char more[256];
    long left = given.bytes - c->offset, piece = given.chunk && given.chunk < left ? given.chunk : left;
    c->end = c->offset + piece;
    snprintf(more, sizeof more,
             "Upload-Offset: %ld\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: %ld\r\n", c->offset, piece);
    request(c, PATCH, "PATCH", c->location, more);
    if (piece <= INLINE_BYTES && piece <= source_bytes) { // a small body travels with its head, as clients send it
        memcpy(c->out + c->out_length, source_memory, piece);
        c->out_length += piece, c->offset = c->end, all_sent += piece;
    }
    c->state = APPEND;
}

static void ask_head(struct connection *c) {
    c->started = now();
    request(c, HEAD, "HEAD", c->location, "");
    c->state = CREATE;
}

static void ask_get(struct connection *c) {
    char range[96] = "";
    if (given.bytes) {
        long first = given.total > given.bytes ? (long)(chance() % (uint64_t)(given.total - given.bytes)) : 0;
        snprintf(range, sizeof range, "Range: bytes=%ld-%ld\r\n", first, first + given.bytes - 1);
    }
    c->started = now();
    request(c, GET, "GET", given.path, range);
    c->state = CREATE;
}

static int is_probe, is_get;

static void next_upload(struct connection *c) {
    if (given.seconds && now() - start > given.seconds) given.uploads = begun;
    if (begun >= given.uploads) {
        c->state = DONE;
        return;
    }
    begun++;
    if (is_get) ask_get(c);
    else ask_create(c);
}

// ---- answers -------------------------------------------------------------------------------------------------

static void note_latency(struct connection *c) {
    if (!(latency_count & (latency_count - 1))) {
        latencies = realloc(latencies, sizeof *latencies * (latency_count ? 2 * latency_count : 1));
        if (!latencies) die(2, "out of memory");
    }
    latencies[latency_count++] = now() - c->started;
}

static char *field(struct connection *c, const char *name) { // the value of a header, or NULL
    char *found = strcasestr(c->in, name);
    if (!found) return NULL;
    for (found += strlen(name); *found == ' ';) found++;
    return found;
}

static void take_location(struct connection *c) {
    char *from = field(c, "\nlocation:");
    if (!from) die(3, "no Location: %.300s", c->in);
    char *end = strpbrk(from, "\r\n"), *host = strstr(from, "//");
    if (host && host < end) from = strchr(host + 2, '/');
    if (!from || from >= end || end - from >= (long)sizeof c->location) die(3, "a strange Location: %.300s", c->in);
    memcpy(c->location, from, end - from);
    c->location[end - from] = 0;
    strcpy(last_location, c->location);
}

static void answered(struct connection *c, int status) {
    static const int wanted[] = {[POST] = 201, [PATCH] = 204, [HEAD] = 200, [GET] = 200};
    int want = c->asked == GET && given.bytes ? 206 : wanted[c->asked];
    if (status != want && !(c->asked == HEAD && status == 204)) die(3, "%s answered %.600s", c->out, c->in);
    if (c->asked == POST) {
        take_location(c);
        if (is_probe) ask_head(c);
        else ask_append(c);
    } else if (c->asked == PATCH && c->offset < given.bytes) {
        ask_append(c);
    } else {
        note_latency(c);
        finished++;
        if (is_probe) c->state = PAUSED;
        else next_upload(c);
    }
}

static int status_of_answer;

static int read_answer(struct connection *c) { // 0: wait for more
    ssize_t got = recv(c->fd, c->in + c->in_length, sizeof c->in - 1 - c->in_length, 0);
    if (got == 0) die(3, "the server closed the connection after %s", c->out);
    if (got < 0) {
        if (errno == EAGAIN) return 0;
        die(3, "recv: %s after %s", strerror(errno), c->out);
    }
    c->in_length += got;
    c->in[c->in_length] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 1;
    long body = c->in_length - (end + 4 - c->in);
    end[2] = 0; // the headers alone, for what looks for one
    status_of_answer = atoi(c->in + 9);
    char *length = field(c, "\ncontent-length:"), *coding = field(c, "\ntransfer-encoding:"), *ending = field(c, "\nconnection:");
    c->closing = ending && !strncasecmp(ending, "close", 5);
    if (coding && c->asked != HEAD) { // short texts only; their end is enough
        if (!memmem(end + 4, body, "0\r\n\r\n", 5)) {
            end[2] = '\r';
            return 1;
        }
        answered(c, status_of_answer);
        return 1;
    }
    c->left = (length && c->asked != HEAD ? atol(length) : 0) - body;
    if (c->left > 0) c->state = DRAIN;
    else answered(c, status_of_answer);
    return 1;
}

static int drain(struct connection *c) {
    static char bin[1 << 18];
    ssize_t got = recv(c->fd, bin, c->left < (long)sizeof bin ? c->left : (long)sizeof bin, MSG_TRUNC);
    if (got == 0) die(3, "the server closed the connection in the middle of an answer");
    if (got < 0) {
        if (errno == EAGAIN) return 0;
        die(3, "recv: %s", strerror(errno));
    }
    c->left -= got;
    if (!c->left) answered(c, status_of_answer);
    return 1;
}

// ---- bodies --------------------------------------------------------------------------------------------------

static int send_head(struct connection *c) {
    int more = c->state == APPEND && c->offset < c->end ? MSG_MORE : 0;
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, more | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno == EAGAIN) return 0;
        die(3, "send: %s", strerror(errno));
    }
    c->out_sent += sent;
    if (c->out_sent == c->out_length) {
        c->out[c->out_length < 200 ? c->out_length : 200] = 0; // what a message quotes
        c->state = c->state == APPEND ? BODY : ANSWER;
    }
    return 1;
}

static void report_progress(void) {
    long all = given.bytes * given.uploads;
    while (given.progress && all_sent >= next_progress && next_progress <= all) {
        printf("progress %ld %.4f\n", next_progress, now() - start);
        fflush(stdout);
        next_progress += all / given.progress;
    }
}

static int send_body(struct connection *c, long *turn) {
    long left = c->end - c->offset, half = given.bytes / 2;
    if (given.stall == 1 && c->offset < half && left > half - c->offset) left = half - c->offset;
    if (given.stall == 1 && c->offset >= half) {
        c->state = PAUSED, paused++;
        return 0;
    }
    if (left <= 0) {
        c->state = ANSWER;
        return 1;
    }
    if (*turn <= 0) {
        again_later(c);
        return 0;
    }
    off_t place = c->offset % source_bytes;
    if (left > source_bytes - place) left = source_bytes - place;
    if (left > *turn) left = *turn;
    ssize_t sent = sendfile(c->fd, source, &place, left);
    if (sent < 0) {
        if (errno == EAGAIN) return 0;
        die(3, "sendfile: %s", strerror(errno));
    }
    c->offset += sent, all_sent += sent, *turn -= sent;
    report_progress();
    return 1;
}

static void step(struct connection *c) {
    long turn = TURN_BYTES;
    int more = 1;
    while (more) {
        switch (c->state) {
        case CREATE:
        case APPEND: more = send_head(c); break;
        case BODY: more = send_body(c, &turn); break;
        case ANSWER: more = read_answer(c); break;
        case DRAIN: more = drain(c); break;
        case PAUSED:
        case DONE: more = 0;
        }
    }
}

// ---- the whole -----------------------------------------------------------------------------------------------

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_result(double wall) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + 1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    double p50 = latency_count ? latencies[latency_count / 2] : 0, p99 = latency_count ? latencies[latency_count * 99 / 100] : 0;
    printf("{\"wall\": %.6f, \"requests\": %ld, \"bytes\": %ld, \"client_cpu\": %.4f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"location\": \"%s\"}\n",
           wall, finished, is_get ? finished * (given.bytes ? given.bytes : given.total) : all_sent, cpu, p50 * 1e3, p99 * 1e3,
           last_location);
}

static void go_on(struct connection *all) { // once all are stalled
    char line[16];
    printf("stalled\n");
    fflush(stdout);
    if (read(0, line, sizeof line) < 0) die(2, "stdin: %s", strerror(errno));
    given.stall = 2;
    for (int i = 0; i < given.connections; i++) {
        all[i].state = BODY;
        step(&all[i]);
    }
}

static void run(struct connection *all) {
    struct epoll_event events[256];
    while (finished < given.uploads) {
        if (given.stall == 1 && paused == given.connections) go_on(all);
        int count = epoll_wait(epoll, events, 256, 60000);
        if (count == 0) die(4, "nothing moved for 60 s; %ld of %ld are done", finished, given.uploads);
        for (int i = 0; i < count; i++) step(events[i].data.ptr);
    }
}

static void run_probe(struct connection *c) {
    struct epoll_event events[4];
    struct pollfd input = {.fd = 0, .events = POLLIN};
    for (;;) {
        if (c->state == PAUSED) {
            struct timespec pause = {.tv_nsec = given.pause_us * 1000};
            if (ppoll(&input, 1, &pause, NULL) > 0) return;
            ask_head(c);
            step(c);
        } else if (epoll_wait(epoll, events, 4, 60000) == 0) {
            die(4, "HEAD was not answered for 60 s");
        } else {
            step(c);
        }
    }
}

static void read_arguments(int count, char **values) {
    for (int i = 2; i < count; i++) {
        char *value = strchr(values[i], '=');
        if (!value) die(2, "%s is not KEY=VALUE", values[i]);
        *value++ = 0;
        const char *key = values[i];
        long number = atol(value);
        if (!strcmp(key, "port")) given.port = number;
        else if (!strcmp(key, "path")) given.path = value;
        else if (!strcmp(key, "code")) given.code = value;
        else if (!strcmp(key, "connections")) given.connections = number;
        else if (!strcmp(key, "uploads")) given.uploads = number;
        else if (!strcmp(key, "bytes")) given.bytes = number;
        else if (!strcmp(key, "chunk")) given.chunk = number;
        else if (!strcmp(key, "total")) given.total = number;
        else if (!strcmp(key, "seconds")) given.seconds = atof(value);
        else if (!strcmp(key, "stall")) given.stall = number;
        else if (!strcmp(key, "progress")) given.progress = number;
        else if (!strcmp(key, "pause_us")) given.pause_us = number;
        else die(2, "there is no key %s", key);
    }
}

int main(int count, char **values) {
    if (count < 2) die(2, "say upload, probe or get");
    read_arguments(count, values);
    is_probe = !strcmp(values[1], "probe"), is_get = !strcmp(values[1], "get");
    if (is_probe) given.connections = 1, given.bytes = 1024;
    if (!is_get) make_source();
    if (given.progress) next_progress = given.bytes * given.uploads / given.progress;
    epoll = epoll_create1(0);
    struct connection *all = calloc(given.connections, sizeof *all);
    if (epoll < 0 || !all) die(2, "no memory");
    for (int i = 0; i < given.connections; i++) connect_to_server(&all[i]);
    start = now();
    for (int i = 0; i < given.connections; i++) {
        next_upload(&all[i]);
        step(&all[i]);
    }
    if (is_probe) run_probe(&all[0]);
    else run(all);
    print_result(now() - start);
    return 0;
}
