/* The floor: the kernel calls of a bridge ADD with NAT and published ports, and of its DEL, and nothing else.
 *
 *   floor add  NETNS HOSTIF MAC ADDRESS PREFIX GATEWAY BRIDGE HOSTPORT CONTAINERPORT COUNT
 *   floor del  HOSTIF HOSTPORT COUNT
 *   floor pairs N NETNS HOSTIF ... COUNT        N ADD/DEL pairs in one process
 *   floor fill FIRSTPORT COUNT ADDRESS          COUNT elements leading to ADDRESS, for load
 *
 * Prints "ADD" or "DEL" and the microseconds that the calls took. No record, no lease, no lock, no check.
 * The bridge and the table "floor" with the map "publish" must be there (bench/peers/floor.py makes them).
 * Sources: linux/rtnetlink.h, linux/veth.h, linux/if_link.h, linux/netfilter/nf_tables.h.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ELEMENTS_PER_MESSAGE 400 /* an attribute's length has 16 bits */
#define BUFFER_BYTES (8u << 20)

static char *buffer; /* the batch being written */
static size_t used;
static struct nlmsghdr *current;
static unsigned sequence;
static unsigned acks; /* answers that the batch will bring */

static void die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, ": %s\n", strerror(errno));
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* ---- writing messages ---- */

static void *reserve(size_t length)
{
    void *place = buffer + used;
    size_t padded = NLMSG_ALIGN(length);
    if (used + padded > BUFFER_BYTES)
        errno = ENOBUFS, die("batch");
    memset(place, 0, padded);
    used += padded;
    return place;
}

static void *begin(int type, int flags, size_t header)
{
    current = reserve(sizeof *current);
    current->nlmsg_type = type;
    current->nlmsg_flags = NLM_F_REQUEST | flags;
    current->nlmsg_seq = ++sequence;
    if (flags & NLM_F_ACK)
        acks++;
    return reserve(header);
}

static void end(void) { current->nlmsg_len = buffer + used - (char *)current; }

static void put(int type, const void *data, size_t length)
{
    struct nlattr *attribute = reserve(NLA_HDRLEN + length);
    attribute->nla_type = type;
    attribute->nla_len = NLA_HDRLEN + length;
    memcpy((char *)attribute + NLA_HDRLEN, data, length);
}

static void put_u32(int type, unsigned value) { put(type, &value, sizeof value); }
static void put_text(int type, const char *value) { put(type, value, strlen(value) + 1); }

static struct nlattr *open_nest(int type)
{
    struct nlattr *nest = reserve(NLA_HDRLEN);
    nest->nla_type = type | NLA_F_NESTED;
    return nest;
}

static void close_nest(struct nlattr *nest) { nest->nla_len = buffer + used - (char *)nest; }

/* ---- talking ---- */

static int open_netlink(int family)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family);
    if (fd < 0)
        die("socket");
    return fd;
}

static void send_batch(int fd, const char *what)
{
    char answer[65536];
    if (used > 100000) {
        int size = used * 2 + 65536;
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    }
    if (send(fd, buffer, used, 0) < 0)
        die("%s: send", what);
    while (acks) {
        ssize_t got = recv(fd, answer, sizeof answer, 0);
        if (got < 0)
            die("%s: recv", what);
        for (struct nlmsghdr *h = (void *)answer; NLMSG_OK(h, got); h = NLMSG_NEXT(h, got)) {
            if (h->nlmsg_type != NLMSG_ERROR)
                continue;
            struct nlmsgerr *error = NLMSG_DATA(h);
            if (error->error) {
                errno = -error->error;
                die("%s: refused", what);
            }
            acks--;
        }
    }
    used = 0;
}

static int index_of(int fd, const char *name)
{
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
        die("index of %s", name);
    return request.ifr_ifindex;
}

/* ---- nf_tables ---- */

static void batch_mark(int type)
{
    struct nfgenmsg *header = begin(type, 0, sizeof *header);
    header->res_id = htons(NFNL_SUBSYS_NFTABLES);
    end();
}

/* The keys and data are those of map { type inet_proto . inet_service : ipv4_addr . inet_service }. */
static void publish(int fd, int add, unsigned host_port, const char *address, unsigned container_port, unsigned count)
{
    struct in_addr target = {0};
    if (add)
        inet_pton(AF_INET, address, &target);
    batch_mark(NFNL_MSG_BATCH_BEGIN);
    for (unsigned start = 0; start < count; start += ELEMENTS_PER_MESSAGE) {
        unsigned stop = start + ELEMENTS_PER_MESSAGE < count ? start + ELEMENTS_PER_MESSAGE : count;
        int flags = (add ? NLM_F_CREATE : 0) | (stop == count ? NLM_F_ACK : 0);
        struct nfgenmsg *header =
            begin(NFNL_SUBSYS_NFTABLES << 8 | (add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM), flags, sizeof *header);
        header->nfgen_family = NFPROTO_INET;
        put_text(NFTA_SET_ELEM_LIST_TABLE, "floor");
        put_text(NFTA_SET_ELEM_LIST_SET, "publish");
        struct nlattr *list = open_nest(NFTA_SET_ELEM_LIST_ELEMENTS);
        for (unsigned step = start; step < stop; step++) {
            unsigned char key[8] = {IPPROTO_TCP, 0, 0, 0, (host_port + step) >> 8, host_port + step};
            unsigned char data[8] = {0, 0, 0, 0, (container_port + step) >> 8, container_port + step};
            struct nlattr *element = open_nest(NFTA_LIST_ELEM), *part = open_nest(NFTA_SET_ELEM_KEY);
            put(NFTA_DATA_VALUE, key, sizeof key);
            close_nest(part);
            if (add) {
                memcpy(data, &target, 4);
                part = open_nest(NFTA_SET_ELEM_DATA);
                put(NFTA_DATA_VALUE, data, sizeof data);
                close_nest(part);
            }
            close_nest(element);
        }
        close_nest(list);
        end();
    }
    batch_mark(NFNL_MSG_BATCH_END);
    send_batch(fd, add ? "publish" : "withdraw");
}

/* ---- the two halves of ADD ---- */

struct request {
    const char *netns, *host_name, *mac, *address, *gateway, *bridge;
    unsigned prefix, host_port, container_port, count;
};

static void host_half(int fd, int sandbox, const struct request *r)
{
    unsigned char mac[6], none = 1, on = 1;
    sscanf(r->mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]);
    unsigned master = index_of(fd, r->bridge);

    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sizeof(struct ifinfomsg));
    put_text(IFLA_IFNAME, r->host_name);
    struct nlattr *info = open_nest(IFLA_LINKINFO);
    put_text(IFLA_INFO_KIND, "veth");
    struct nlattr *data = open_nest(IFLA_INFO_DATA), *peer = open_nest(VETH_INFO_PEER);
    reserve(sizeof(struct ifinfomsg));
    put_text(IFLA_IFNAME, "eth0");
    put(IFLA_ADDRESS, mac, sizeof mac);
    put_u32(IFLA_NET_NS_FD, sandbox);
    close_nest(peer);
    close_nest(data);
    close_nest(info);
    end();

    struct ifinfomsg *link = begin(RTM_SETLINK, NLM_F_ACK, sizeof *link);
    link->ifi_flags = link->ifi_change = IFF_UP;
    put_text(IFLA_IFNAME, r->host_name);
    put_u32(IFLA_MASTER, master);
    struct nlattr *spec = open_nest(IFLA_AF_SPEC), *inet6 = open_nest(AF_INET6);
    put(IFLA_INET6_ADDR_GEN_MODE, &none, 1);
    close_nest(inet6);
    close_nest(spec);
    end();

    begin(RTM_NEWLINK, NLM_F_ACK, sizeof(struct ifinfomsg));
    put_text(IFLA_IFNAME, r->host_name);
    info = open_nest(IFLA_LINKINFO);
    put_text(IFLA_INFO_SLAVE_KIND, "bridge");
    data = open_nest(IFLA_INFO_SLAVE_DATA);
    put(IFLA_BRPORT_MODE, &on, 1);
    close_nest(data);
    close_nest(info);
    end();
    send_batch(fd, "host");
}

static void sandbox_half(int fd, const struct request *r)
{
    struct in_addr address, gateway, broadcast;
    inet_pton(AF_INET, r->address, &address);
    inet_pton(AF_INET, r->gateway, &gateway);
    broadcast.s_addr = address.s_addr | htonl((1u << (32 - r->prefix)) - 1);
    unsigned index = index_of(fd, "eth0");

    struct ifinfomsg *link = begin(RTM_SETLINK, NLM_F_ACK, sizeof *link);
    link->ifi_index = index;
    link->ifi_flags = link->ifi_change = IFF_UP;
    end();

    struct ifaddrmsg *a = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sizeof *a);
    a->ifa_family = AF_INET;
    a->ifa_prefixlen = r->prefix;
    a->ifa_index = index;
    put(IFA_LOCAL, &address, 4);
    put(IFA_ADDRESS, &address, 4);
    put(IFA_BROADCAST, &broadcast, 4);
    end();

    struct rtmsg *route = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, sizeof *route);
    route->rtm_family = AF_INET;
    route->rtm_table = RT_TABLE_MAIN;
    route->rtm_protocol = RTPROT_BOOT;
    route->rtm_type = RTN_UNICAST;
    put_u32(RTA_OIF, index);
    put(RTA_GATEWAY, &gateway, 4);
    end();
    send_batch(fd, "sandbox");
}

static void add(int own, const struct request *r)
{
    int sandbox = open(r->netns, O_RDONLY | O_CLOEXEC);
    if (sandbox < 0 || setns(sandbox, CLONE_NEWNET) < 0)
        die("%s", r->netns);
    int inside = open_netlink(NETLINK_ROUTE);
    if (setns(own, CLONE_NEWNET) < 0)
        die("setns back");
    int outside = open_netlink(NETLINK_ROUTE);
    host_half(outside, sandbox, r);
    sandbox_half(inside, r);
    if (r->count) {
        int firewall = open_netlink(NETLINK_NETFILTER);
        publish(firewall, 1, r->host_port, r->address, r->container_port, r->count);
        close(firewall);
    }
    close(outside);
    close(inside);
    close(sandbox);
}

static void del(const char *host_name, unsigned host_port, unsigned count)
{
    if (count) {
        int firewall = open_netlink(NETLINK_NETFILTER);
        publish(firewall, 0, host_port, NULL, 0, count);
        close(firewall);
    }
    int outside = open_netlink(NETLINK_ROUTE);
    begin(RTM_DELLINK, NLM_F_ACK, sizeof(struct ifinfomsg));
    put_text(IFLA_IFNAME, host_name);
    end();
    send_batch(outside, "unlink");
    close(outside);
}

static struct request parse(char **argument)
{
    return (struct request){argument[0], argument[1], argument[2], argument[3], argument[5], argument[6],
                            atoi(argument[4]), atoi(argument[7]), atoi(argument[8]), atoi(argument[9])};
}

int main(int argc, char **argv)
{
    double start = now_us();
    const char *command = argc > 1 ? argv[1] : "";
    buffer = malloc(BUFFER_BYTES);
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (!buffer || own < 0)
        die("start");
    if (!strcmp(command, "add") && argc == 12) {
        struct request r = parse(argv + 2);
        add(own, &r);
        printf("ADD %.1f\n", now_us() - start);
    } else if (!strcmp(command, "del") && argc == 5) {
        del(argv[2], atoi(argv[3]), atoi(argv[4]));
        printf("DEL %.1f\n", now_us() - start);
    } else if (!strcmp(command, "pairs") && argc == 13) {
        struct request r = parse(argv + 3);
        for (int left = atoi(argv[2]); left > 0; left--) {
            start = now_us();
            add(own, &r);
            double middle = now_us();
            printf("ADD %.1f\n", middle - start);
            del(r.host_name, r.host_port, r.count);
            printf("DEL %.1f\n", now_us() - middle);
        }
    } else if (!strcmp(command, "fill") && argc == 5) {
        int firewall = open_netlink(NETLINK_NETFILTER);
        publish(firewall, 1, atoi(argv[2]), argv[4], 80, atoi(argv[3]));
        printf("FILL %.1f\n", now_us() - start);
    } else {
        fprintf(stderr, "usage: floor add|del|pairs|fill ... (see the head of floor.c)\n");
        return 2;
    }
    return 0;
}
