import { lookup } from 'node:dns/promises'
import type { CheckedAddress } from '../ssh/socket.ts'
import { type Address, contains, type Network, parseAddress, parseNetwork } from './networks.ts'

/** Where the control plane must not send us, though our own machine could reach it. */
export type AddressKind = 'loopback' | 'link_local' | 'ordinary'

const networks = (...texts: readonly string[]): Network[] =>
  texts.map((text) => {
    const network = parseNetwork(text)
    if (network === null) throw new Error(`not a network: ${text}`)
    return network
  })

/** `0.0.0.0` and `::` reach this very machine on Linux. */
const LOOPBACK = networks('127.0.0.0/8', '0.0.0.0/8', '::1', '::')

/** The metadata services of the clouds live here, and some of them outside. */
const LINK_LOCAL = networks(
  '169.254.0.0/16',
  '168.63.129.16', // Azure
  '100.100.100.200', // Alibaba
  '192.0.0.192', // Oracle
  'fe80::/10',
  'fd00:ec2::/32', // AWS
  'fd20:ce::254', // Google
  'fd00:c1::a9fe:a9fe', // Oracle
  'fd00:42::42', // Scaleway
)

const NAT64 = networks('64:ff9b::/96', '64:ff9b:1::/48')
const [SIX_TO_FOUR] = networks('2002::/16') as [Network]

/** IPv6 that a translator on the way delivers to the IPv4 address in it. */
const carried = (address: Address): Address[] => {
  if (contains(SIX_TO_FOUR, address)) return [{ family: 4, bits: (address.bits >> 80n) & 0xffff_ffffn }]
  const translated = NAT64.some((network) => contains(network, address))
  return translated ? [{ family: 4, bits: address.bits & 0xffff_ffffn }] : []
}

/** IPv4 addresses in IPv6 form (`::ffff:127.0.0.1`, NAT64, 6to4) are judged as what they are. */
export const kindOf = ({ address }: CheckedAddress): AddressKind => {
  const parsed = parseAddress(address.split('%', 1)[0] ?? '')
  // Whatever that is, nobody can say that it is ordinary.
  if (parsed === null) return 'link_local'
  const among = (list: readonly Network[]): boolean =>
    [parsed, ...carried(parsed)].some((one) => list.some((network) => contains(network, one)))
  if (among(LOOPBACK)) return 'loopback'
  return among(LINK_LOCAL) ? 'link_local' : 'ordinary'
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
