import { isIP } from 'node:net'
import { contains, type Network, parseAddress, parseNetwork } from './networks.ts'

/** A server or a jump host, as a job names it. */
export interface Place {
  readonly host: string
  readonly port: number
}

/** One line of `hosts` in a guard file: a name, all names below one, or a network, at some ports. */
export interface HostRule {
  /** As it was written. */
  readonly text: string
  readonly ports: readonly [number, number]
  readonly of: { readonly name: string } | { readonly below: string } | { readonly network: Network }
}

const SSH = 22
const LAST_PORT = 65535

/** A label that ends a name and is a number makes the name an address, in some notation (127.1, 0x7f000001). */
const NUMBER = /(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$/i
export const isOddNumber = (host: string): boolean => isIP(host) === 0 && NUMBER.test(host)

const NAME = /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/

const parsePorts = (text: string | undefined): HostRule['ports'] | null => {
  if (text === undefined) return [SSH, SSH]
  if (text === '*') return [1, LAST_PORT]
  const [, low = '', high = low] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? []
  const ports = [Number(low), Number(high)] as const
  return ports[0] >= 1 && ports[0] <= ports[1] && ports[1] <= LAST_PORT ? ports : null
}

const parseName = (text: string): HostRule['of'] | null => {
  const below = text.startsWith('*.')
  const name = text.slice(below ? 2 : 0).toLowerCase()
  if (!NAME.test(name) || name.length > 253 || NUMBER.test(name)) return null
  return below ? { below: name } : { name }
}

const parsePlace = (text: string): HostRule['of'] | null => {
  const bracketed = /^\[(.+)\]$/.exec(text)?.[1]
  const network = parseNetwork(bracketed ?? text)
  if (network !== null && (network.family === 6) === (bracketed !== undefined)) return { network }
  return bracketed === undefined ? parseName(text) : null
}

/** Null where it is not one. Nothing is guessed: a rule that was meant otherwise is better refused than wider. */
export const parseHostRule = (text: string): HostRule | null => {
  const [, place = '', ports] = /^(\[[^\]]*\]|[^:]*)(?::(.*))?$/s.exec(text) ?? []
  const parsed = { text, ports: parsePorts(ports), of: parsePlace(place) }
  return parsed.ports === null || parsed.of === null ? null : { ...parsed, ports: parsed.ports, of: parsed.of }
}

/** For people: what to write to admit exactly this place. */
export const placeText = ({ host, port }: Place): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`

const atPort = (rules: readonly HostRule[], port: number): readonly HostRule[] =>
  rules.filter(({ ports: [low, high] }) => low <= port && port <= high)

/** A name with a dot at its end is another name to a resolver that searches domains: it is in no rule. */
const nameIs = (host: string, { of }: HostRule): boolean => {
  const name = host.toLowerCase()
  if (!NAME.test(name)) return false
  return 'below' in of ? name.endsWith(`.${of.below}`) : 'name' in of && name === of.name
}

/** `text`: the rule that it stands in. */
export type NamedNetwork = Network & { readonly text: string }

/** Where all addresses of a name must lie, once they are known. */
export interface ToBeLookedUp {
  readonly networks: readonly NamedNetwork[]
}

/** Without asking DNS. A place that `isBehind` a jump host is looked up over there: its addresses are never known here. */
export const judgePlace = (
  { host, port }: Place,
  rules: readonly HostRule[],
  isBehind: boolean,
): 'inside' | 'outside' | ToBeLookedUp => {
  const here = atPort(rules, port)
  const networks = here.flatMap(({ of, text }) => ('network' in of ? [{ ...of.network, text }] : []))
  const address = parseAddress(host)
  if (address !== null) return networks.some((network) => contains(network, address)) ? 'inside' : 'outside'
  if (here.some((rule) => nameIs(host, rule))) return 'inside'
  return isBehind || networks.length === 0 ? 'outside' : { networks }
}

export const isInNetworks = (address: string, networks: readonly Network[]): boolean => {
  const parsed = parseAddress(address)
  return parsed !== null && networks.some((network) => contains(network, parsed))
}
