import { createHmac, timingSafeEqual } from 'node:crypto'
import { isIP, SocketAddress } from 'node:net'
import { decodeBase64, WireError, wireReader } from '../protocol/ssh-wire.ts'

/**
 * OpenSSH's known_hosts as data: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
 *
 * Which lines match a server is what `ssh` finds, with three differences, each to the safe side:
 *
 * - a line that `ssh` would skip in silence is a problem with a number and a reason: it may have been a `@revoked`;
 * - `@revoked` for a bare name counts at every port of it (`ssh` only looks at `[host]:port`);
 * - `ssh` takes a bare name's key at another port where it knows none for that port. Here it is no key of that port.
 *
 * Host certificates can't be verified (ssh2 1.17.0), so a `@cert-authority` line is only remembered as such.
 */
export interface KnownHosts {
  readonly entries: readonly KnownHostsEntry[]
  /** In the order of the file. */
  readonly problems: readonly LineProblem[]
}

export interface KnownHostsEntry {
  /** Counted from 1. */
  readonly line: number
  readonly marker: Marker
  readonly names: Names
  /** `type base64`, without the comment. */
  readonly key: string
}

export interface LineProblem {
  readonly line: number
  readonly reason: string
}

export type Marker = 'none' | 'revoked' | 'authority'

type Names =
  | { readonly kind: 'patterns'; readonly wanted: readonly string[]; readonly unwanted: readonly string[] }
  | { readonly kind: 'hashed'; readonly salt: Buffer; readonly digest: Buffer }

/** Why a line can't be read. It never leaves this file. */
class Unreadable extends Error {}

const fail = (reason: string): never => {
  throw new Unreadable(reason)
}

/** As the C locale does it, whatever a server's name may hold. */
const lowerCase = (text: string): string => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase())

const SHA1_BYTES = 20
const HASHED = /^\|1\|([A-Za-z0-9+/=]+)\|([A-Za-z0-9+/=]+)$/

const readHashed = (text: string): Names => {
  const [, salt = '', digest = ''] = HASHED.exec(text) ?? []
  const parts = { salt: decodeBase64(salt), digest: decodeBase64(digest) }
  if (parts.salt?.length !== SHA1_BYTES || parts.digest?.length !== SHA1_BYTES) return fail('not a hashed name')
  return { kind: 'hashed', salt: parts.salt, digest: parts.digest }
}

/** OpenSSH gives up on longer ones, and with them on the whole list. */
const MAX_PATTERN = 1000

const readPatterns = (text: string): Names => {
  const patterns = lowerCase(text).split(',')
  if (patterns.some(({ length }) => length > MAX_PATTERN)) fail(`a name is longer than ${MAX_PATTERN} characters`)
  return {
    kind: 'patterns',
    wanted: patterns.filter((pattern) => pattern !== '' && !pattern.startsWith('!')),
    unwanted: patterns.filter((pattern) => pattern.startsWith('!')).map((pattern) => pattern.slice(1)),
  }
}

const readNames = (text: string): Names => {
  if (!/^[\x21-\x7e]+$/.test(text)) fail('the names are not printable ASCII')
  return text.startsWith('|') ? readHashed(text) : readPatterns(text)
}

/** How many fields follow the type in the blob. */
const FIELDS: ReadonlyMap<string, number> = new Map([
  ['ssh-ed25519', 1],
  ['ecdsa-sha2-nistp256', 2],
  ['ecdsa-sha2-nistp384', 2],
  ['ecdsa-sha2-nistp521', 2],
  ['ssh-rsa', 2],
  ['ssh-dss', 4],
  ['sk-ssh-ed25519@openssh.com', 2],
  ['sk-ecdsa-sha2-nistp256@openssh.com', 3],
])

/** Weak keys too: they are never proved, but a list of revoked ones is full of them. */
const readKey = (type: string, base64: string): string => {
  const count = FIELDS.get(type) ?? fail('not a type of key that is known')
  const reader = wireReader(decodeBase64(base64) ?? fail('the key is not base64'))
  try {
    if (reader.text() !== type) fail('the type in the key differs from the one before it')
    for (let field = 0; field < count; field++) reader.bytes()
  } catch (error) {
    if (error instanceof WireError) fail('the key is cut off')
    throw error
  }
  if (!reader.isAtEnd()) fail('bytes after the end of the key')
  return `${type} ${base64}`
}

const MARKERS: ReadonlyMap<string, Marker> = new Map([
  ['@revoked', 'revoked'],
  ['@cert-authority', 'authority'],
])

const readMarker = (text: string): Marker => MARKERS.get(text) ?? fail('not a marker that is known')

const readEntry = (text: string, line: number): KnownHostsEntry => {
  const words = text.split(/[ \t]+/)
  const marker = words[0]?.startsWith('@') ? readMarker(words.shift() ?? '') : 'none'
  const [names = '', type = '', base64 = ''] = words
  if (base64 === '') fail('names, type and key are expected')
  return { line, marker, names: readNames(names), key: readKey(type, base64) }
}

/** Null: nothing but a comment. */
const readLine = (raw: string, line: number): KnownHostsEntry | LineProblem | null => {
  const text = raw.replace(/\r$/, '').replace(/^[ \t]+|[ \t]+$/g, '')
  try {
    // In a comment as well: what follows it looks like a line to whoever wrote it.
    if (/[\r\0]/.test(text)) fail('a carriage return or NUL in the middle of the line')
    return text === '' || text.startsWith('#') ? null : readEntry(text, line)
  } catch (error) {
    if (error instanceof Unreadable) return { line, reason: error.message }
    throw error
  }
}

/** Reads any text. It never throws: what is not a line of known_hosts is among the problems, and the others count. */
export const parseKnownHosts = (text: string): KnownHosts => {
  const read = text.split('\n').flatMap((raw, index) => readLine(raw, index + 1) ?? [])
  return {
    entries: read.filter((one) => 'key' in one),
    problems: read.filter((one) => 'reason' in one),
  }
}

/** `*` is any text, `?` any one character. Goes back to the last `*` only, so that no pattern takes long. */
const matchesPattern = (pattern: string, name: string): boolean => {
  let [at, from] = [0, 0]
  let star: { at: number; from: number } | null = null
  while (from < name.length) {
    if (pattern[at] === '*') star = { at: at++, from }
    else if (pattern[at] === '?' || pattern[at] === name[from]) [at, from] = [at + 1, from + 1]
    else if (star === null) return false
    else {
      star = { at: star.at, from: star.from + 1 }
      ;[at, from] = [star.at + 1, star.from]
    }
  }
  return /^\**$/.test(pattern.slice(at))
}

const matches = (names: Names, name: string): boolean => {
  if (names.kind === 'hashed') {
    return timingSafeEqual(createHmac('sha1', names.salt).update(name).digest(), names.digest)
  }
  const hit = (pattern: string): boolean => matchesPattern(pattern, name)
  return names.wanted.some(hit) && !names.unwanted.some(hit)
}

const SSH_PORT = 22

/** An address in the form in which OpenSSH would write it down. */
const canonicalHost = (host: string): string => {
  const version = isIP(host)
  return version === 0
    ? lowerCase(host)
    : new SocketAddress({ address: host, family: version === 6 ? 'ipv6' : 'ipv4' }).address
}

/** How known_hosts names a server: `host`, or `[host]:port` where the port is not 22. */
export const knownHostsName = (host: string, port: number): string =>
  port === SSH_PORT ? canonicalHost(host) : `[${canonicalHost(host)}]:${port}`

/** More than a connector has, and some MiB. */
const MOST_SERVERS = 20_000

export interface FoundKeys {
  /** `type base64` each. */
  readonly known: readonly string[]
  /** Of this server's names; never to be accepted, also where they are known as well. */
  readonly revoked: readonly string[]
  /** Lines of `@cert-authority` that would apply if host certificates were verified. */
  readonly authorities: readonly number[]
}

/** A server is looked up once: each of ten thousand hashed lines costs a hash of its name, on the event loop. */
export const keyFinder = (hosts: KnownHosts): ((host: string, port: number) => FoundKeys) => {
  const found = new Map<string, FoundKeys>()
  return (host, port) => {
    const name = knownHostsName(host, port)
    const keys = found.get(name) ?? findKeys(hosts, host, port)
    if (found.size >= MOST_SERVERS) found.clear()
    found.set(name, keys)
    return keys
  }
}

export const findKeys = ({ entries }: KnownHosts, host: string, port: number): FoundKeys => {
  const name = knownHostsName(host, port)
  const bare = knownHostsName(host, SSH_PORT)
  const of = (marker: Marker, ...wanted: readonly string[]): readonly KnownHostsEntry[] =>
    entries.filter((entry) => entry.marker === marker && wanted.some((one) => matches(entry.names, one)))
  return {
    known: [...new Set(of('none', name).map(({ key }) => key))],
    revoked: [...new Set(of('revoked', name, bare).map(({ key }) => key))],
    authorities: of('authority', name).map(({ line }) => line),
  }
}
