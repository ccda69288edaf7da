/* SPDX-License-Identifier: Apache-2.0 */
#include "ringway_shim.h"

#include <rte_cycles.h>

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

uint8_t *ringway_mbuf_data(const struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_mtod(mbuf, uint8_t *);
}

uint16_t ringway_mbuf_data_len(const struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_data_len(mbuf);
}

uint8_t *ringway_mbuf_append(struct rte_mbuf *mbuf, uint16_t len)
{
	return (uint8_t *)rte_pktmbuf_append(mbuf, len);
}

void ringway_mbuf_reset(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_reset(mbuf);
}
