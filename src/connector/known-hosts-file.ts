import { type BigIntStats, readFileSync, statSync } from 'node:fs'
import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { Policy } from '../protocol/integration.ts'
import { type HostKeyRules, hostKeyRules, type LocalKnownHosts, type NamedServer } from '../ssh/host-keys.ts'
import { type KnownHosts, keyFinder, parseKnownHosts } from '../ssh/known-hosts.ts'

/** A line is under 1 KiB; what is larger than many thousands of them is another file. */
const MAX_BYTES = 16n * 1024n * 1024n
const SHOWN = 20
const CHECK_EVERY_MS = 1000

type Loaded =
  | { readonly ok: true; readonly hosts: KnownHosts; readonly find: LocalKnownHosts['find'] }
  | { readonly ok: false; readonly problems: readonly string[] }

const errnoOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown'

const lineProblems = ({ problems }: KnownHosts): readonly string[] => {
  const named = problems.slice(0, SHOWN).map(({ line, reason }) => `line ${line}: ${reason}`)
  return problems.length > SHOWN ? [...named, `and ${problems.length - SHOWN} more lines`] : named
}

const load = (path: string, stats: BigIntStats): Loaded => {
  if (!stats.isFile()) return { ok: false, problems: ['not a regular file'] }
  if (stats.size > MAX_BYTES) return { ok: false, problems: [`larger than ${MAX_BYTES} bytes`] }
  const hosts = parseKnownHosts(readFileSync(path, 'utf8'))
  return hosts.problems.length > 0
    ? { ok: false, problems: lineProblems(hosts) }
    : { ok: true, hosts, find: keyFinder(hosts) }
}

/** `stamp`: differs when the file does; null where there is none to compare, so that it is read again. */
type Look = Loaded & { readonly stamp: string | null }

const stampOf = ({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): string => [dev, ino, size, mtimeNs, ctimeNs].join()

/** The stamp is taken before the content: what changes in between is seen at the next look. */
const lookAt = (path: string, former: Look | null): Look => {
  try {
    const stats = statSync(path, { bigint: true })
    const stamp = stampOf(stats)
    return former?.ok === true && former.stamp === stamp ? former : { ...load(path, stats), stamp }
  } catch (error) {
    return { ok: false, problems: [`cannot be read (${errnoOf(error)})`], stamp: null }
  }
}

/** What keeps the file from being used as it is now; empty where nothing does. */
export const knownHostsProblems = (path: string): readonly string[] => {
  const look = lookAt(path, null)
  return look.ok ? [] : look.problems
}

/** What is known of a server's host keys. Fails with `known_hosts_unreadable`. */
export type HostKeySource = (server: NamedServer, policy: Policy['hostKeys']) => HostKeyRules

/** One line when it breaks, one when it is mended, and one for authorities at every reading. */
const tell = (log: Logger, path: string, former: Look | null, now: Look): void => {
  if (!now.ok) {
    const fields = { event: 'known_hosts_unreadable', path, problems: now.problems }
    if (former?.ok !== false) log.error(fields, 'known_hosts cannot be read whole: no connections until it can')
    return
  }
  if (former?.ok === false) log.info({ event: 'known_hosts_readable', path }, 'known_hosts is read again')
  const lines = now.hosts.entries.filter(({ marker }) => marker === 'authority').map(({ line }) => line)
  if (lines.length === 0) return
  const fields = { event: 'known_hosts_authorities', path, lines: lines.slice(0, SHOWN), count: lines.length }
  log.warn(fields, 'host certificates are not verified: @cert-authority lines make no key known')
}

/**
 * The one place where the connector's known_hosts is read: at the start and whenever it has changed, which is looked at
 * once a second at most. While it can't be read whole, nothing is known of any server and no connection is made.
 */
const watchedFile = (path: string, clock: Clock, log: Logger | undefined): (() => LocalKnownHosts) => {
  let look: Look | null = null
  let lookedAt = 0
  const current = (): Look => {
    const now = clock.monotonic()
    if (look !== null && now - lookedAt < CHECK_EVERY_MS) return look
    const former = look
    look = lookAt(path, former)
    lookedAt = now
    if (log !== undefined && look !== former) tell(log, path, former, look)
    return look
  }
  current()
  return () => {
    const now = current()
    if (now.ok) return { path, find: now.find }
    throw new JobError('known_hosts_unreadable', `${path}: ${now.problems.join('; ')}`)
  }
}

/** `path`: the connector's known_hosts, or null where it has none: then only the integration and the policy decide. */
export const hostKeySource = (path: string | null, clock: Clock, log?: Logger): HostKeySource => {
  if (path === null) return (server, policy) => hostKeyRules(server, policy, null)
  const file = watchedFile(path, clock, log)
  return (server, policy) => hostKeyRules(server, policy, file())
}
