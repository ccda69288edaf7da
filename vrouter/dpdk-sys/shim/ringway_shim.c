/* SPDX-License-Identifier: Apache-2.0 */
/* For rte_dev_event_callback_register, which has been there since 18.05. */
#define ALLOW_EXPERIMENTAL_API
#include "ringway_shim.h"

#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_prefetch.h>

int ringway_errno(void)
{
	return rte_errno;
}

uint32_t ringway_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t ringway_tsc(void)
{
	return rte_rdtsc();
}

int ringway_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

int ringway_mbuf_alloc_bulk_len(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count,
				uint16_t len)
{
	int status = rte_mempool_get_bulk(pool, (void **)mbufs, count);

	if (status != 0)
		return status;
	/* Buffers lie in their pool unchained and referenced once; the rest of a reset is what follows. */
	for (uint32_t i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = mbufs[i];

		mbuf->data_off = RTE_PKTMBUF_HEADROOM;
		mbuf->ol_flags = 0;
		mbuf->data_len = len;
		mbuf->pkt_len = len;
	}
	return 0;
}

int ringway_mbuf_alloc_chain(struct rte_mempool *pool, struct rte_mbuf **mbuf, uint32_t len)
{
	uint32_t room = rte_pktmbuf_data_room_size(pool) - RTE_PKTMBUF_HEADROOM;
	uint32_t count = (uint32_t)(((uint64_t)len + room - 1) / room);
	struct rte_mbuf *segments[RINGWAY_MBUF_CHAIN_MAX];
	uint32_t left = len;
	int status;

	if (count == 0 || count > RINGWAY_MBUF_CHAIN_MAX)
		return -EINVAL;
	status = rte_pktmbuf_alloc_bulk(pool, segments, count);
	if (status != 0)
		return status;
	for (uint32_t i = 0; i < count; i++) {
		segments[i]->data_len = RTE_MIN(left, room);
		left -= segments[i]->data_len;
		segments[i]->next = i + 1 < count ? segments[i + 1] : NULL;
	}
	segments[0]->pkt_len = len;
	segments[0]->nb_segs = count;
	*mbuf = segments[0];
	return 0;
}

void ringway_mbuf_offload(struct rte_mbuf *mbuf, const struct ringway_mbuf_offload *want)
{
	mbuf->tx_offload = 0;
	mbuf->l2_len = want->link_bytes;
	mbuf->l3_len = want->ip_bytes;
	mbuf->l4_len = want->transport_bytes;
	mbuf->tso_segsz = want->segment_bytes;
	mbuf->ol_flags |= want->ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
	mbuf->ol_flags |= want->udp ? RTE_MBUF_F_TX_UDP_CKSUM : RTE_MBUF_F_TX_TCP_CKSUM;
	if (want->segment_bytes != 0)
		mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
	if (want->ip_checksum)
		mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
	if (want->outer_ip_bytes == 0)
		return;
	mbuf->outer_l2_len = RTE_ETHER_HDR_LEN;
	mbuf->outer_l3_len = want->outer_ip_bytes;
	mbuf->ol_flags |= RTE_MBUF_F_TX_TUNNEL_VXLAN;
	mbuf->ol_flags |= want->outer_ipv6 ? RTE_MBUF_F_TX_OUTER_IPV6 :
					     RTE_MBUF_F_TX_OUTER_IPV4 | RTE_MBUF_F_TX_OUTER_IP_CKSUM;
}

void ringway_mbuf_free_bulk_pool(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count)
{
	uint32_t segments = 0;

	for (uint32_t i = 0; i < count; i++)
		segments += mbufs[i]->nb_segs;
	/* What is not chained is as the pool wants it back, without a look at each buffer's second line. */
	if (likely(segments == count))
		rte_mempool_put_bulk(pool, (void *const *)mbufs, count);
	else
		rte_pktmbuf_free_bulk(mbufs, count);
}

void ringway_mbuf_prefetch(struct rte_mbuf *const *mbufs, uint32_t count, uint32_t offset)
{
	for (uint32_t i = 0; i < count; i++)
		rte_prefetch0(rte_pktmbuf_mtod_offset(mbufs[i], const void *, offset));
}

/* The compiler asks for reading unless it may use prefetchw; where the CPU lacks that, it does nothing. */
#ifdef RTE_ARCH_X86
__attribute__((target("prfchw")))
#endif
void ringway_mbuf_prefetch_write(struct rte_mbuf *const *mbufs, uint32_t count, uint32_t offset)
{
	/* rte_prefetch0_write is experimental in the oldest release we support. */
	for (uint32_t i = 0; i < count; i++)
		__builtin_prefetch(rte_pktmbuf_mtod_offset(mbufs[i], const void *, offset), 1, 3);
}

uint8_t *ringway_mbuf_append(struct rte_mbuf *mbuf, uint16_t len)
{
	return (uint8_t *)rte_pktmbuf_append(mbuf, len);
}

uint8_t *ringway_mbuf_prepend(struct rte_mbuf *mbuf, uint16_t len)
{
	return (uint8_t *)rte_pktmbuf_prepend(mbuf, len);
}

uint8_t *ringway_mbuf_adj(struct rte_mbuf *mbuf, uint16_t len)
{
	return (uint8_t *)rte_pktmbuf_adj(mbuf, len);
}

int ringway_mbuf_trim(struct rte_mbuf *mbuf, uint16_t len)
{
	return rte_pktmbuf_trim(mbuf, len);
}

void ringway_mbuf_reset(struct rte_mbuf *mbuf)
{
	/* A reset alone would forget the rest of a packet that a device received in pieces. */
	rte_pktmbuf_free(mbuf->next);
	mbuf->next = NULL;
	rte_pktmbuf_reset(mbuf);
}

int ringway_ethdev_by_name(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port);
}

int ringway_ethdev_own(uint16_t port, uint64_t *owner)
{
	struct rte_eth_dev_owner want = { .name = "ringway" };
	int status = rte_eth_dev_owner_new(&want.id);

	if (status == 0)
		status = rte_eth_dev_owner_set(port, &want);
	*owner = want.id;
	return status;
}

int ringway_ethdev_disown(uint16_t port, uint64_t owner)
{
	return rte_eth_dev_owner_unset(port, owner);
}

/* By port: somebody wants the device back. Written by DPDK's interrupt thread. */
static uint8_t wanted_back[RTE_MAX_ETHPORTS];

static void device_event(const char *name, enum rte_dev_event_type type, void *port)
{
	(void)name;
	if (type == RTE_DEV_EVENT_REMOVE)
		__atomic_store_n(&wanted_back[(uintptr_t)port], 1, __ATOMIC_RELAXED);
}

int ringway_ethdev_watch(uint16_t port, const char *name)
{
	if (port >= RTE_MAX_ETHPORTS)
		return -EINVAL;
	__atomic_store_n(&wanted_back[port], 0, __ATOMIC_RELAXED);
	return rte_dev_event_callback_register(name, device_event, (void *)(uintptr_t)port);
}

void ringway_ethdev_unwatch(uint16_t port, const char *name)
{
	/* The callback may be running just now; it takes no time. */
	while (rte_dev_event_callback_unregister(name, device_event, (void *)(uintptr_t)port) == -EAGAIN)
		;
}

int ringway_ethdev_wanted_back(uint16_t port)
{
	return port < RTE_MAX_ETHPORTS && __atomic_load_n(&wanted_back[port], __ATOMIC_RELAXED);
}

int ringway_ethdev_info(uint16_t port, struct ringway_ethdev_info *info)
{
	struct rte_eth_dev_info from;
	struct rte_ether_addr mac;
	uint32_t overhead;
	int status = rte_eth_dev_info_get(port, &from);

	if (status == 0)
		status = rte_eth_macaddr_get(port, &mac);
	if (status != 0)
		return status;
	memset(info, 0, sizeof(*info));
	if (from.driver_name != NULL)
		strncpy(info->driver, from.driver_name, sizeof(info->driver) - 1);
	memcpy(info->mac, mac.addr_bytes, sizeof(info->mac));
	info->max_rx_queues = from.max_rx_queues;
	info->max_tx_queues = from.max_tx_queues;
	info->min_mtu = from.min_mtu;
	/* A driver that gives no largest MTU may give a largest frame, which DPDK checks as well. */
	overhead = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;
	if (from.max_mtu != UINT16_MAX && from.max_rx_pktlen > from.max_mtu)
		overhead = from.max_rx_pktlen - from.max_mtu;
	info->max_mtu = from.max_mtu;
	if (from.max_rx_pktlen > overhead && from.max_rx_pktlen - overhead < info->max_mtu)
		info->max_mtu = from.max_rx_pktlen - overhead;
	info->min_rx_descriptors = from.rx_desc_lim.nb_min;
	info->max_rx_descriptors = from.rx_desc_lim.nb_max;
	info->rx_descriptor_step = from.rx_desc_lim.nb_align;
	info->min_tx_descriptors = from.tx_desc_lim.nb_min;
	info->max_tx_descriptors = from.tx_desc_lim.nb_max;
	info->tx_descriptor_step = from.tx_desc_lim.nb_align;
	info->tx_ipv4_checksum = (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) != 0;
	info->tx_udp_checksum = (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) != 0;
	info->tx_tcp_checksum = (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_CKSUM) != 0;
	info->tx_tcp_segmentation = (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO) != 0;
	info->tx_vxlan_segmentation = (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_VXLAN_TNL_TSO) != 0;
	info->tx_outer_checksum = (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM) != 0;
	info->tx_buffers = 1;
	if (from.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) {
		info->tx_buffers = from.tx_desc_lim.nb_seg_max;
		/* 0 is said by drivers that say nothing. */
		if (info->tx_buffers == 0 || info->tx_buffers > RINGWAY_MBUF_CHAIN_MAX)
			info->tx_buffers = RINGWAY_MBUF_CHAIN_MAX;
	}
	return 0;
}

int ringway_ethdev_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, uint32_t mtu,
			     int interrupts, int tx_offloads, int rx_checksums)
{
	struct rte_eth_conf conf = { .rxmode = { .mtu = mtu } };
	struct rte_eth_dev_info info;
	int status = rte_eth_dev_info_get(port, &info);

	if (status != 0)
		return status;
	conf.intr_conf.rxq = interrupts != 0;
	if (tx_offloads)
		conf.txmode.offloads = info.tx_offload_capa &
				       (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM |
					RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO |
					RTE_ETH_TX_OFFLOAD_VXLAN_TNL_TSO | RTE_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM |
					RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
	if (rx_checksums)
		conf.rxmode.offloads = info.rx_offload_capa &
				       (RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM);
	if (rx_queues > 1) {
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads &
						   (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_TCP);
		if (conf.rx_adv_conf.rss_conf.rss_hf != 0)
			conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
	}
	return rte_eth_dev_configure(port, rx_queues, tx_queues, &conf);
}

int ringway_ethdev_rx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool)
{
	return rte_eth_rx_queue_setup(port, queue, descriptors, rte_eth_dev_socket_id(port), NULL, pool);
}

int ringway_ethdev_tx_queue(uint16_t port, uint16_t queue, uint16_t descriptors, uint16_t free_threshold)
{
	struct rte_eth_dev_info info;
	int status = rte_eth_dev_info_get(port, &info);

	if (status != 0)
		return status;
	if (free_threshold != 0)
		info.default_txconf.tx_free_thresh = free_threshold;
	return rte_eth_tx_queue_setup(port, queue, descriptors, rte_eth_dev_socket_id(port),
				      &info.default_txconf);
}

int ringway_ethdev_link(uint16_t port, struct ringway_ethdev_link *link)
{
	struct rte_eth_link from;
	int status = rte_eth_link_get_nowait(port, &from);

	if (status != 0)
		return status;
	link->up = from.link_status == RTE_ETH_LINK_UP;
	link->speed = from.link_speed;
	return 0;
}

int ringway_ethdev_stats(uint16_t port, struct ringway_ethdev_stats *stats)
{
	struct rte_eth_stats from;
	int status = rte_eth_stats_get(port, &from);

	if (status != 0)
		return status;
	stats->rx_packets = from.ipackets;
	stats->tx_packets = from.opackets;
	stats->rx_bytes = from.ibytes;
	stats->tx_bytes = from.obytes;
	stats->rx_missed = from.imissed;
	stats->rx_errors = from.ierrors;
	stats->tx_errors = from.oerrors;
	stats->rx_no_mbuf = from.rx_nombuf;
	return 0;
}

int ringway_ethdev_xstats(uint16_t port, struct ringway_ethdev_xstat *stats, uint32_t count)
{
	struct rte_eth_xstat_name *names = calloc(count + 1, sizeof(*names));
	struct rte_eth_xstat *values = calloc(count + 1, sizeof(*values));
	int there = -ENOMEM;

	if (names != NULL && values != NULL) {
		there = rte_eth_xstats_get_names(port, names, count);
		if (there >= 0 && (uint32_t)there <= count)
			there = rte_eth_xstats_get(port, values, count);
		for (int i = 0; i < there && (uint32_t)there <= count; i++) {
			if (values[i].id >= (uint64_t)there)
				continue;
			memset(stats[i].name, 0, sizeof(stats[i].name));
			memcpy(stats[i].name, names[values[i].id].name, sizeof(stats[i].name) - 1);
			stats[i].value = values[i].value;
		}
	}
	free(names);
	free(values);
	return there;
}

int ringway_ethdev_set_mac(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr addr;

	memcpy(addr.addr_bytes, mac, sizeof(addr.addr_bytes));
	return rte_eth_dev_default_mac_addr_set(port, &addr);
}

/* Changes a kernel interface by an ioctl. */
static int interface_change(const char *name, unsigned long what, struct ifreq *request)
{
	int status = 0;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	strncpy(request->ifr_name, name, sizeof(request->ifr_name) - 1);
	if (ioctl(fd, what, request) < 0)
		status = -errno;
	close(fd);
	return status;
}

int ringway_interface_mtu(const char *name, uint16_t mtu)
{
	struct ifreq request = { .ifr_mtu = mtu };

	return interface_change(name, SIOCSIFMTU, &request);
}

int ringway_interface_mac(const char *name, const uint8_t mac[6])
{
	struct ifreq request = { .ifr_hwaddr.sa_family = ARPHRD_ETHER };

	memcpy(request.ifr_hwaddr.sa_data, mac, 6);
	return interface_change(name, SIOCSIFHWADDR, &request);
}

uint16_t ringway_ethdev_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t ringway_ethdev_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, mbufs, count);
}

uint16_t ringway_ethdev_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}
