import { isIP } from 'node:net'

/**
 * Addresses as numbers. Not `net.BlockList`: its `::/0` takes in every IPv4 address too, and a rule must admit nothing
 * that its reader does not see in it.
 */
export interface Address {
  readonly family: 4 | 6
  readonly bits: bigint
}

export interface Network extends Address {
  readonly prefix: number
}

const WIDTH = { 4: 32, 6: 128 } as const

const bitsOf4 = (text: string): bigint => text.split('.').reduce((bits, part) => (bits << 8n) | BigInt(part), 0n)

/** `::ffff:10.0.0.1` may end in the dotted form: as two groups it is like all others. */
const withoutDots = (text: string): string =>
  text.replace(/[0-9.]+\.[0-9]+$/, (quad) => {
    const bits = bitsOf4(quad)
    return `${(bits >> 16n).toString(16)}:${(bits & 0xffffn).toString(16)}`
  })

const groupsOf = (text: string): string[] => text.split(':').filter((group) => group !== '')

const bitsOf6 = (text: string): bigint => {
  const [left = '', right = ''] = withoutDots(text).split('::', 2)
  const [head, tail] = [groupsOf(left), groupsOf(right)]
  const zeros = Array.from({ length: 8 - head.length - tail.length }, () => '0')
  return [...head, ...zeros, ...tail].reduce((bits, group) => (bits << 16n) | BigInt(`0x${group}`), 0n)
}

const MAPPED = 0xffffn

/** What a socket connects to: IPv4 in IPv6 form (`::ffff:10.0.0.1`) is IPv4. Null for anything else than an address. */
export const parseAddress = (text: string): Address | null => {
  const family = text.includes('%') ? 0 : isIP(text)
  if (family === 4) return { family: 4, bits: bitsOf4(text) }
  if (family !== 6) return null
  const bits = bitsOf6(text)
  return bits >> 32n === MAPPED ? { family: 4, bits: bits & 0xffff_ffffn } : { family: 6, bits }
}

/** An address or `ADDRESS/PREFIX`. Null where it is neither, or where bits are set behind the prefix. */
export const parseNetwork = (text: string): Network | null => {
  const [, head = '', length] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const address = parseAddress(head)
  // A mapped one would be a network of the other family, with another prefix than it says.
  if (address === null || (address.family === 4 && head.includes(':'))) return null
  const width = WIDTH[address.family]
  const prefix = length === undefined ? width : Number(length)
  const rest = BigInt(width - prefix)
  return prefix > width || (address.bits >> rest) << rest !== address.bits ? null : { ...address, prefix }
}

export const contains = ({ family, bits, prefix }: Network, address: Address): boolean => {
  const rest = BigInt(WIDTH[family] - prefix)
  return family === address.family && bits >> rest === address.bits >> rest
}
