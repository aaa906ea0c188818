import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { untilAborted } from '../ssh/deadline.ts'
import { createKeyOpener } from './key-opener.ts'
import { disposeMaterial, type SecretMaterial, type StoredKey } from './material.ts'
import { type LoginKey, openPrivateKey } from './private-key.ts'
import type { SecretStores } from './stores.ts'

/**
 * The opened keys of the secrets that jobs name, in memory only. Invariants:
 *
 * - A secret's content is disposed of as soon as its keys are open; neither it nor a passphrase is ever kept.
 * - A key is used without asking the store for `ttlMs`; after that only for the version that the store gives now. A store
 *   that cannot be reached is waited for with the keys that are there, until they are `hardLimitMs` old: ends of access
 *   must go on. A store that answers, and refuses, is believed at once.
 * - One secret is read once at a time, and one version of it opened once: to find out that a passphrase is wrong takes as
 *   long as to find out that it is right. What is read and opened belongs to no job: one that is called off only stops
 *   waiting.
 */
export interface KeyRing {
  /** Fails as the stores' `read` and `openPrivateKey` do, or with `cancelled`. */
  get(reference: SecretReference, signal?: AbortSignal): Promise<SecretKeys>
  /**
   * A server has refused these keys: asks the store whatever their age, but no more than once a minute. Null where that
   * brings nothing new: the version is the same, it was asked just now, or it cannot be read.
   */
  renew(reference: SecretReference, refused: SecretKeys, signal?: AbortSignal): Promise<SecretKeys | null>
  /** Forgets everything and ends what is under way. Nothing is read after that. */
  dispose(): void
}

export interface SecretKeys {
  /** The current one, and the next where the secret holds one. */
  readonly keys: readonly [LoginKey, ...LoginKey[]]
  /** Why there is no next key although the secret holds one; null otherwise. */
  readonly nextUnusable: JobError | null
  /** Names secret and version: another value means that the keys may be others. */
  readonly version: string
}

/** What opens keys, for real or in tests. */
export interface KeySource {
  open(stored: StoredKey): Promise<LoginKey>
  dispose(): void
}

export interface KeyRingOptions {
  readonly stores: SecretStores
  readonly clock: Clock
  readonly log: Logger
  readonly source?: KeySource
  /** Milliseconds, 300,000. */
  readonly ttlMs?: number
  /** Milliseconds, 3,600,000. */
  readonly hardLimitMs?: number
}

export const TTL_MS = 300_000
export const HARD_LIMIT_MS = 3_600_000
const RENEW_EVERY_MS = 60_000
/** While a store is down: a job does not wait for its deadline every time. */
const TRY_AGAIN_AFTER_MS = 10_000
/** Integrations share secrets; who has more than this reads some of them more often. */
export const MOST_SECRETS = 256

type Opened = { readonly keys: SecretKeys } | { readonly error: JobError }

/** What is known of one secret. */
interface Entry {
  readonly name: string
  opened: Opened | null
  /** As the store gave it. */
  version: string
  /** By the monotonic clock, like all times here: when the store last confirmed the version. */
  confirmedAt: number
  /** Until then the store is not asked again. */
  freshUntil: number
  renewedAt: number
  /** Whether the log has been told that the store cannot be reached. */
  stale: boolean
  flight: Promise<SecretKeys> | null
  /** Ends the wait for the day when the keys are too old. */
  timer: AbortController | null
}

/** Opens for real, in workers where a passphrase is needed. */
export const keySource = (clock: Clock): KeySource => {
  const opener = createKeyOpener(clock)
  return { open: (stored) => openPrivateKey(stored, opener), dispose: opener.dispose }
}

const codeOf = (error: unknown): string => (error instanceof JobError ? error.code : '')

/** The same whatever order a control plane sends the members in. */
export const referenceName = (reference: SecretReference): string =>
  JSON.stringify(Object.entries(reference).toSorted())

const calledOff = (): JobError => new JobError('cancelled', 'called off while the private key was being read')

/** One that is not usable yet keeps nobody out: the current one still is. */
const openNext = async (source: KeySource, next: StoredKey | undefined): Promise<LoginKey | JobError | null> => {
  if (next === undefined) return null
  try {
    return await source.open(next)
  } catch (error) {
    if (codeOf(error) === 'secret_malformed') return error as JobError
    throw error
  }
}

const openAll = async (source: KeySource, material: SecretMaterial, version: string): Promise<SecretKeys> => {
  const current = await source.open(material)
  const next = await openNext(source, material.next)
  if (next === null) return { keys: [current], nextUnusable: null, version }
  if (next instanceof JobError) return { keys: [current], nextUnusable: next, version }
  // Promoted already, and not yet taken out of its place.
  const keys: SecretKeys['keys'] = next.fingerprint === current.fingerprint ? [current] : [current, next]
  return { keys, nextUnusable: null, version }
}

export const createKeyRing = (options: KeyRingOptions): KeyRing => {
  const { stores, clock, log, ttlMs = TTL_MS, hardLimitMs = HARD_LIMIT_MS } = options
  const source = options.source ?? keySource(clock)
  const living = new AbortController()
  /** The one that was not used for longest first. */
  const entries = new Map<string, Entry>()

  const forget = (entry: Entry): void => {
    entry.timer?.abort('forgotten')
    entry.timer = null
    entry.opened = null
  }

  /** For a new one; of the others, those first that hold no key: a control plane can think of any number of those. */
  const makeRoom = (entry: Entry): void => {
    const others = [...entries.values()].filter((one) => one !== entry)
    const leaving = others.find(({ opened }) => opened === null) ?? others[0]
    if (leaving === undefined) return
    forget(leaving)
    entries.delete(leaving.name)
  }

  const entryOf = (name: string): Entry => {
    const found = entries.get(name)
    const never = Number.NEGATIVE_INFINITY
    const times = { confirmedAt: never, freshUntil: never, renewedAt: never }
    const entry = found ?? { name, opened: null, version: '', ...times, stale: false, flight: null, timer: null }
    entries.delete(name)
    entries.set(name, entry)
    if (entries.size > MOST_SECRETS) makeRoom(entry)
    return entry
  }

  const forgetWhenTooOld = (entry: Entry): void => {
    entry.timer?.abort('confirmed')
    const timer = new AbortController()
    entry.timer = timer
    clock.sleep(hardLimitMs, timer.signal).then(
      () => forget(entry),
      () => undefined,
    )
  }

  const confirm = (entry: Entry, reference: SecretReference): void => {
    entry.confirmedAt = clock.monotonic()
    entry.freshUntil = stores.askAlways(reference.type) ? Number.NEGATIVE_INFINITY : entry.confirmedAt + ttlMs
    if (entry.stale) log.info({ event: 'secret_store_reachable', store: reference.type }, 'the secret is read again')
    entry.stale = false
    forgetWhenTooOld(entry)
  }

  const openOnce = async (entry: Entry, material: SecretMaterial): Promise<Opened> => {
    if (entry.opened !== null && entry.version === material.version) return entry.opened
    const version = `${entry.name} ${material.version}`
    try {
      return { keys: await openAll(source, material, version) }
    } catch (error) {
      if (codeOf(error) !== 'secret_malformed') throw error
      return { error: error as JobError }
    }
  }

  const keep = (entry: Entry, reference: SecretReference, version: string, opened: Opened): SecretKeys => {
    if (living.signal.aborted) throw new JobError('cancelled', 'the connector is ending')
    // Nothing is kept of one that had to make room meanwhile.
    if (entries.get(entry.name) === entry) {
      entry.opened = opened
      entry.version = version
      confirm(entry, reference)
    }
    if ('keys' in opened) return opened.keys
    // Whoever mends the secret need not wait: it is opened no second time, but asked for.
    entry.freshUntil = Number.NEGATIVE_INFINITY
    throw opened.error
  }

  /** What is there while the store is away; else what went wrong, and nothing is there any more. */
  const instead = (entry: Entry, reference: SecretReference, error: unknown): SecretKeys => {
    const now = clock.monotonic()
    // Gone at the hard limit.
    const { opened } = entry
    const isAway = codeOf(error) === 'secret_store_unreachable'
    if (!isAway || opened === null || 'error' in opened) {
      if (codeOf(error) !== 'cancelled') forget(entry)
      throw error
    }
    entry.freshUntil = now + TRY_AGAIN_AFTER_MS
    if (!entry.stale) {
      const fields = { event: 'secret_store_unreachable', store: reference.type, error: (error as JobError).message }
      log.warn(
        { ...fields, usedForMs: hardLimitMs - (now - entry.confirmedAt) },
        'the key that was read before is used',
      )
    }
    entry.stale = true
    return opened.keys
  }

  const read = async (entry: Entry, reference: SecretReference): Promise<SecretKeys> => {
    let material: SecretMaterial
    try {
      material = await stores.read(reference, { signal: living.signal })
    } catch (error) {
      return instead(entry, reference, error)
    }
    try {
      return keep(entry, reference, material.version, await openOnce(entry, material))
    } finally {
      disposeMaterial(material)
    }
  }

  const readOnce = (entry: Entry, reference: SecretReference): Promise<SecretKeys> => {
    if (entry.flight !== null) return entry.flight
    const flight = read(entry, reference).finally(() => {
      entry.flight = null
    })
    // Whoever waited may have gone.
    flight.catch(() => undefined)
    entry.flight = flight
    return flight
  }

  const renewed = async (
    entry: Entry,
    reference: SecretReference,
    signal?: AbortSignal,
  ): Promise<SecretKeys | null> => {
    try {
      return await untilAborted(readOnce(entry, reference), signal, calledOff)
    } catch (error) {
      if (codeOf(error) === 'cancelled') throw error
      return null
    }
  }

  return {
    get: async (reference, signal) => {
      const entry = entryOf(referenceName(reference))
      const { opened } = entry
      if (opened !== null && 'keys' in opened && clock.monotonic() < entry.freshUntil) return opened.keys
      return await untilAborted(readOnce(entry, reference), signal, calledOff)
    },
    renew: async (reference, refused, signal) => {
      const entry = entryOf(referenceName(reference))
      const { opened } = entry
      if (opened !== null && 'keys' in opened && opened.keys.version !== refused.version) return opened.keys
      const now = clock.monotonic()
      if (now - entry.renewedAt < RENEW_EVERY_MS) return null
      entry.renewedAt = now
      const keys = await renewed(entry, reference, signal)
      return keys === null || keys.version === refused.version ? null : keys
    },
    dispose: () => {
      living.abort()
      source.dispose()
      for (const entry of entries.values()) forget(entry)
      entries.clear()
    },
  }
}
