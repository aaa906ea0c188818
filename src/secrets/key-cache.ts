import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { createKeyOpener } from './key-opener.ts'
import { type LoginKey, openPrivateKey } from './private-key.ts'
import type { SecretMaterial } from './secret-store.ts'

/**
 * Opened keys, so that one is not opened again for every job: an encrypted key takes from 0.3 s to many seconds of a
 * processor, in a worker thread (`key-opener.ts`).
 *
 * The store is still asked for every job; only what comes after is saved, and only for exactly the version that the
 * store gave. A secret that cannot be opened is remembered as well: a wrong passphrase takes as long to find out. What
 * is not the secret's fault (a worker that died) is not.
 *
 * One version of a secret is never opened twice at once: jobs that want it wait for the same opening, which belongs to
 * none of them. A job that is called off stops waiting; the opening goes on, for the others or for the next.
 */
export interface KeyCache {
  /**
   * As `openPrivateKey`, which it fails like, or with `cancelled` when `signal` is aborted first. Does not keep the
   * material, and is done with it before it returns its promise.
   */
  open(reference: SecretReference, material: SecretMaterial, signal?: AbortSignal): Promise<LoginKey>
  /** Forgets everything, and ends what is being opened. Nothing encrypted is opened after that. */
  dispose(): void
}

/** What the cache is made of. */
export interface KeySource {
  open(material: SecretMaterial): Promise<LoginKey>
  dispose(): void
}

/** From when it was opened, used or not: how long a key stays in memory that no job needs. */
export const KEEP_MS = 300_000
/** Integrations share secrets; who has more than this opens some of them more than once. */
export const MOST_KEYS = 16

type Opened = { readonly key: LoginKey } | { readonly error: JobError }

interface Entry {
  readonly version: string
  readonly opened: Opened
  readonly timer: AbortController
}

/** Opens for real, and for this one cache. */
export const keySource = (clock: Clock): KeySource => {
  const opener = createKeyOpener(clock)
  return { open: (material) => openPrivateKey(material, opener), dispose: opener.dispose }
}

const isOfTheSecret = (error: unknown): error is JobError =>
  error instanceof JobError && error.code === 'secret_malformed'

/** The same whatever order a control plane sends the members in. */
export const referenceName = (reference: SecretReference): string =>
  JSON.stringify(Object.entries(reference).toSorted())

/** Settles with `work`, which goes on if `signal` ends the wait; should it fail then, the race has heard of it. */
const waitFor = async <T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = (): void => reject(new JobError('cancelled', 'called off while the private key was being opened'))
  if (signal?.aborted) abort()
  signal?.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

export const createKeyCache = (clock: Clock, source: KeySource = keySource(clock)): KeyCache => {
  /** One version of each secret, the longest opened first. */
  const entries = new Map<string, Entry>()
  /** What is being opened now, by secret and version. */
  const openings = new Map<string, Promise<Opened>>()
  let disposed = false

  const drop = (name: string): void => {
    entries.get(name)?.timer.abort()
    entries.delete(name)
  }

  const keep = (name: string, version: string, opened: Opened): void => {
    drop(name)
    if (disposed) return
    const timer = new AbortController()
    entries.set(name, { version, opened, timer })
    clock.sleep(KEEP_MS, timer.signal).then(
      () => drop(name),
      () => undefined,
    )
    for (const oldest of [...entries.keys()].slice(0, Math.max(0, entries.size - MOST_KEYS))) drop(oldest)
  }

  const openNow = async (name: string, material: SecretMaterial): Promise<Opened> => {
    const { version } = material
    const opened = await source.open(material).then(
      (key): Opened => ({ key }),
      (error: unknown): Opened => {
        if (isOfTheSecret(error)) return { error }
        throw error
      },
    )
    keep(name, version, opened)
    return opened
  }

  const open = (name: string, material: SecretMaterial): Promise<Opened> => {
    const held = entries.get(name)
    if (held?.version === material.version) return Promise.resolve(held.opened)
    drop(name)
    const flight = JSON.stringify([name, material.version])
    const running = openings.get(flight)
    if (running) return running
    const opening = openNow(name, material).finally(() => openings.delete(flight))
    openings.set(flight, opening)
    return opening
  }

  return {
    open: async (reference, material, signal) => {
      const opened = await waitFor(open(referenceName(reference), material), signal)
      if ('key' in opened) return opened.key
      throw opened.error
    },
    dispose: () => {
      disposed = true
      source.dispose()
      for (const name of [...entries.keys()]) drop(name)
    },
  }
}
