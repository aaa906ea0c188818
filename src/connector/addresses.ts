import { lookup } from 'node:dns/promises'
import { BlockList } from 'node:net'
import type { CheckedAddress } from '../ssh/socket.ts'

/** Where the control plane must not send us, though our own machine could reach it. */
export type AddressKind = 'loopback' | 'link_local' | 'ordinary'

const blockList = (v4: readonly [string, number][], v6: readonly [string, number][]): BlockList => {
  const list = new BlockList()
  for (const [network, prefix] of v4) list.addSubnet(network, prefix, 'ipv4')
  for (const [network, prefix] of v6) list.addSubnet(network, prefix, 'ipv6')
  return list
}

/** `0.0.0.0` and `::` reach this very machine on Linux. 64:ff9b::/96 is NAT64: IPv4 in other clothes. */
const LOOPBACK = blockList(
  [
    ['127.0.0.0', 8],
    ['0.0.0.0', 8],
  ],
  [
    ['::1', 128],
    ['::', 128],
    ['64:ff9b::7f00:0', 104],
    ['64:ff9b::', 104],
  ],
)

/** The metadata services of the clouds live here; AWS, Azure, Alibaba and Oracle have more outside. */
const LINK_LOCAL = blockList(
  [
    ['169.254.0.0', 16],
    ['168.63.129.16', 32],
    ['100.100.100.200', 32],
    ['192.0.0.192', 32],
  ],
  [
    ['fe80::', 10],
    ['fd00:ec2::', 32],
    ['64:ff9b::a9fe:0', 112],
  ],
)

/** IPv4 addresses in IPv6 form (`::ffff:127.0.0.1`) are judged as what they are. */
export const kindOf = ({ address, family }: CheckedAddress): AddressKind => {
  const bare = address.split('%', 1)[0] ?? address
  const type = family === 6 ? 'ipv6' : 'ipv4'
  if (LOOPBACK.check(bare, type)) return 'loopback'
  return LINK_LOCAL.check(bare, type) ? 'link_local' : 'ordinary'
}

/** Of a URL's host name, without asking DNS. */
export const isLoopbackName = (hostname: string): boolean =>
  hostname === 'localhost' || hostname === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(hostname)

export type Resolve = (host: string) => Promise<readonly CheckedAddress[]>

/** All addresses of a name, in the order of the system's resolver. Numbers in any notation come out as addresses. */
export const resolveHost: Resolve = async (host) => {
  const found = await lookup(host, { all: true, order: 'verbatim' })
  return found.map(({ address, family }) => ({ address, family: family === 6 ? 6 : 4 }))
}
