/* SPDX-License-Identifier: Apache-2.0
 *
 * The DPDK functions that exist only as inline code in its headers, as real symbols.
 *
 * Bursts are the unit where a caller would loop; one call per packet is left only for what touches one
 * packet. No decision is taken here: every function is one DPDK call or one macro. struct rte_mbuf stays
 * opaque to Rust because its fields moved between the DPDK releases we support.
 */
#ifndef RINGWAY_SHIM_H
#define RINGWAY_SHIM_H

#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Bytes DPDK keeps free in front of a packet; part of every mbuf's data room. */
static const uint16_t RINGWAY_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* lcore id of a thread that DPDK does not know. */
static const uint32_t RINGWAY_LCORE_ID_ANY = LCORE_ID_ANY;

/* rte_errno of the calling thread. */
int ringway_errno(void);

/* lcore id of the calling thread, RINGWAY_LCORE_ID_ANY when it is not registered. */
uint32_t ringway_lcore_id(void);

/* Cycle counter of this CPU. */
uint64_t ringway_tsc(void);

/* Fills `mbufs` with `count` reset buffers and returns 0, or takes none and returns a negative errno. */
int ringway_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count);

/* First byte of the packet in the first segment. */
uint8_t *ringway_mbuf_data(const struct rte_mbuf *mbuf);

/* Bytes of the packet in the first segment. */
uint16_t ringway_mbuf_data_len(const struct rte_mbuf *mbuf);

/* Grows the packet at its end; the start of the new bytes, or NULL when there is no room. */
uint8_t *ringway_mbuf_append(struct rte_mbuf *mbuf, uint16_t len);

/* Empties the packet and restores the headroom. */
void ringway_mbuf_reset(struct rte_mbuf *mbuf);

#endif
