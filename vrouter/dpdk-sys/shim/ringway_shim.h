/* SPDX-License-Identifier: Apache-2.0
 *
 * The DPDK functions that exist only as inline code in its headers, as real symbols.
 *
 * Bursts are the unit where a caller would loop; one call per packet is left only for what touches one
 * packet. No decision is taken here: every function is one DPDK call or one macro, in a loop at most. struct
 * rte_mbuf stays opaque to Rust because its fields moved between the DPDK releases we support; where the few
 * that are read per packet lie is told by the compiler that builds the shim.
 */
#ifndef RINGWAY_SHIM_H
#define RINGWAY_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Bytes DPDK keeps free in front of a packet; part of every mbuf's data room. */
static const uint16_t RINGWAY_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* lcore id of a thread that DPDK does not know. */
static const uint32_t RINGWAY_LCORE_ID_ANY = LCORE_ID_ANY;

/* Where struct rte_mbuf has its `void *buf_addr`, and its `uint16_t` data_off, data_len and buf_len, its
 * `uint32_t` pkt_len, its `uint64_t` ol_flags, and its `struct rte_mbuf *` next. */
static const size_t RINGWAY_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t RINGWAY_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t RINGWAY_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t RINGWAY_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t RINGWAY_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t RINGWAY_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t RINGWAY_MBUF_NEXT = offsetof(struct rte_mbuf, next);

/* What ol_flags says of a received packet's transport checksum: which bits, and that they say it is right. */
static const uint64_t RINGWAY_RX_L4_CHECKSUM = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t RINGWAY_RX_L4_CHECKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;

/* Where struct rte_mbuf has its `uint32_t` packet_type, which bits of it say in what tunnel a packet came, and which what
 * is the transport inside: TCP, or UDP. The checksum above is the inner one's then. */
static const size_t RINGWAY_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type);
static const uint32_t RINGWAY_PTYPE_TUNNEL = RTE_PTYPE_TUNNEL_MASK;
static const uint32_t RINGWAY_PTYPE_INNER_L4 = RTE_PTYPE_INNER_L4_MASK;
static const uint32_t RINGWAY_PTYPE_INNER_TCP = RTE_PTYPE_INNER_L4_TCP;
static const uint32_t RINGWAY_PTYPE_INNER_UDP = RTE_PTYPE_INNER_L4_UDP;

/* Most buffers of one packet. */
#define RINGWAY_MBUF_CHAIN_MAX 64

/* rte_errno of the calling thread. */
int ringway_errno(void);

/* lcore id of the calling thread, RINGWAY_LCORE_ID_ANY when it is not registered. */
uint32_t ringway_lcore_id(void);

/* Cycle counter of this CPU. */
uint64_t ringway_tsc(void);

/* Fills `mbufs` with `count` reset buffers and returns 0, or takes none and returns a negative errno. */
int ringway_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count);

/* As above, for packets of `len` bytes, which must fit a buffer of the pool behind the usual headroom. Their
 * bytes are what the buffers held last. */
int ringway_mbuf_alloc_bulk_len(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count,
				uint16_t len);

/* One packet of `len` bytes in as many buffers of `pool` as it takes, chained, each but the last full; -EINVAL when
 * those are more than RINGWAY_MBUF_CHAIN_MAX or none. Their bytes are what the buffers held last. */
int ringway_mbuf_alloc_chain(struct rte_mempool *pool, struct rte_mbuf **mbuf, uint32_t len);

/* What a device is to do with a packet that is to be sent. */
struct ringway_mbuf_offload {
	/* Bytes in front of the IP header, of that, and of the transport header behind it. */
	uint16_t link_bytes;
	uint16_t ip_bytes;
	uint16_t transport_bytes;
	/* Payload bytes of each piece that TCP is cut into; 0: it is not cut. */
	uint16_t segment_bytes;
	/* Not 0: IPv6, or IPv4. */
	uint8_t ipv6;
	/* Not 0: UDP, or TCP. */
	uint8_t udp;
	/* Not 0: the IPv4 header's checksum as well. */
	uint8_t ip_checksum;
	/* Not 0: inside VXLAN, whose outer IP header has so many bytes and is one of IPv6 (not 0) or IPv4; the
	 * outer Ethernet header is not part of `link_bytes` then, nor that one. */
	uint8_t outer_ip_bytes;
	uint8_t outer_ipv6;
};

/* Has the device that the packet is sent by fill in the transport checksum, and do what else is said. */
void ringway_mbuf_offload(struct rte_mbuf *mbuf, const struct ringway_mbuf_offload *want);

/* Returns `count` buffers to `pool`, which they must all be from; chained ones with their chain. Every segment
 * must be direct and referenced once. */
void ringway_mbuf_free_bulk_pool(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count);

/* Asks the CPU for the cache line at `offset` in each packet, to be read or to be written. */
void ringway_mbuf_prefetch(struct rte_mbuf *const *mbufs, uint32_t count, uint32_t offset);
void ringway_mbuf_prefetch_write(struct rte_mbuf *const *mbufs, uint32_t count, uint32_t offset);

/* Grows the packet at its end; the start of the new bytes, or NULL when there is no room. */
uint8_t *ringway_mbuf_append(struct rte_mbuf *mbuf, uint16_t len);

/* Grows the packet at its start; the start of the new bytes, or NULL when there is no room. */
uint8_t *ringway_mbuf_prepend(struct rte_mbuf *mbuf, uint16_t len);

/* Shortens the packet at its start; NULL, and nothing is changed, when it is shorter. */
uint8_t *ringway_mbuf_adj(struct rte_mbuf *mbuf, uint16_t len);

/* Shortens the packet at its end; -1, and nothing is changed, when its last segment is shorter. */
int ringway_mbuf_trim(struct rte_mbuf *mbuf, uint16_t len);

/* Empties the packet, gives back what is chained to it, and restores the headroom. */
void ringway_mbuf_reset(struct rte_mbuf *mbuf);

/* What an Ethernet device can do. */
struct ringway_ethdev_info {
	/* Name of its driver, cut to fit, ends with NUL. */
	char driver[32];
	uint8_t mac[6];
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
	/* As DPDK checks them. What the kernel's interface behind a device can have may be more. */
	uint16_t min_mtu;
	uint16_t max_mtu;
	/* Fewest descriptors of a queue, most, and what their number must be a multiple of. */
	uint16_t min_rx_descriptors;
	uint16_t max_rx_descriptors;
	uint16_t rx_descriptor_step;
	uint16_t min_tx_descriptors;
	uint16_t max_tx_descriptors;
	uint16_t tx_descriptor_step;
	/* Not 0: the device fills in checksums of packets to be sent, or cuts TCP packets. */
	uint8_t tx_ipv4_checksum;
	uint8_t tx_udp_checksum;
	uint8_t tx_tcp_checksum;
	uint8_t tx_tcp_segmentation;
	/* Not 0: it cuts TCP packets inside VXLAN; fills in the checksum of the outer IPv4 header. */
	uint8_t tx_vxlan_segmentation;
	uint8_t tx_outer_checksum;
	/* Most buffers of a packet to be sent; 1 when it must be in one. */
	uint16_t tx_buffers;
};

/* Where a device's cable stands. */
struct ringway_ethdev_link {
	/* Not 0: up. */
	uint8_t up;
	/* Mbit/s; UINT32_MAX when unknown. */
	uint32_t speed;
};

/* A device's own counters since it was started. */
struct ringway_ethdev_stats {
	uint64_t rx_packets;
	uint64_t tx_packets;
	uint64_t rx_bytes;
	uint64_t tx_bytes;
	/* Packets that found no receive buffer offered to the device. */
	uint64_t rx_missed;
	uint64_t rx_errors;
	uint64_t tx_errors;
	/* Times a receive buffer was wanted from an empty pool. */
	uint64_t rx_no_mbuf;
};

/* One of a device's own further counters. */
struct ringway_ethdev_xstat {
	/* Ends with NUL; in two halves, for which Rust has a default value. */
	char name[2][32];
	uint64_t value;
};

/* Number of the device that EAL knows as `name`; 0 or a negative errno. */
int ringway_ethdev_by_name(const char *name, uint16_t *port);

/* Makes the caller the device's owner; -EPERM when it has one. Ends when the device is closed. */
int ringway_ethdev_own(uint16_t port, uint64_t *owner);
int ringway_ethdev_disown(uint16_t port, uint64_t owner);

/* From now on it is seen that somebody wants the device `name` back, which has the number `port`: the kernel waits with taking
 * a device away that VFIO has given out until it is closed. */
int ringway_ethdev_watch(uint16_t port, const char *name);
void ringway_ethdev_unwatch(uint16_t port, const char *name);
int ringway_ethdev_wanted_back(uint16_t port);

int ringway_ethdev_info(uint16_t port, struct ringway_ethdev_info *info);

/* All of these return 0 or a negative errno. */
/* `interrupts`: receive queues are to have descriptors that tell of packets, if the driver can. `tx_offloads`: what is
 * described above of packets to be sent is to be had, as far as the device can; `rx_checksums`: the same for looking at
 * the transport checksums of those received. Packets are spread over several receive queues by flow, if it can. */
int ringway_ethdev_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, uint32_t mtu,
			     int interrupts, int tx_offloads, int rx_checksums);
int ringway_ethdev_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool);
/* `free_threshold` 0: the driver's own. */
int ringway_ethdev_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, uint16_t free_threshold);
int ringway_ethdev_link(uint16_t port, struct ringway_ethdev_link *link);
int ringway_ethdev_stats(uint16_t port, struct ringway_ethdev_stats *stats);

/* Names and values of a device's own further counters, up to `count`; how many there are, or a negative errno. */
int ringway_ethdev_xstats(uint16_t port, struct ringway_ethdev_xstat *stats, uint32_t count);

/* Sets the device's address. */
int ringway_ethdev_set_mac(uint16_t port, const uint8_t mac[6]);

/* Sets the MTU of one of the kernel's interfaces; 0 or a negative errno. */
int ringway_interface_mtu(const char *name, uint16_t mtu);

/* Sets the address of a kernel interface. */
int ringway_interface_mac(const char *name, const uint8_t mac[6]);

/* Up to `count` packets received; how many there are. */
uint16_t ringway_ethdev_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Has the driver check and complete packets for what they leave to the device; how many from the first on it takes. */
uint16_t ringway_ethdev_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Hands over the first buffers of `mbufs`; how many it took. */
uint16_t ringway_ethdev_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

#endif
