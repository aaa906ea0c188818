import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { type LoginKey, parsePrivateKey } from './private-key.ts'
import type { SecretMaterial } from './secret-store.ts'

/**
 * Opened keys, so that one is not opened again for every job: OpenSSH's key derivation blocks the event loop for
 * 0.3 s with the default rounds and for seconds with more, and with it every lease, deadline and health check.
 *
 * The store is still asked for every job; only what comes after is saved, and only for exactly the version that the
 * store gave. A secret that cannot be opened is remembered as well: a wrong passphrase takes as long to find out.
 * Opening is synchronous, so two jobs never open the same key at once. That the first opening blocks stays; doing it
 * in a worker thread is for the transport issue.
 */
export interface KeyCache {
  /** As `parsePrivateKey`, which it fails like. Does not keep the material. */
  open(reference: SecretReference, material: SecretMaterial): LoginKey
  /** Forgets everything. */
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

const tryOpen = (material: SecretMaterial, parse: typeof parsePrivateKey): Opened => {
  try {
    return { key: parse(material) }
  } catch (error) {
    if (error instanceof JobError) return { error }
    throw error
  }
}

/** The same whatever order a control plane sends the members in. */
export const referenceName = (reference: SecretReference): string =>
  JSON.stringify(Object.entries(reference).toSorted())

export const createKeyCache = (clock: Clock, parse: typeof parsePrivateKey = parsePrivateKey): KeyCache => {
  /** One version of each secret, the longest opened first. */
  const entries = new Map<string, Entry>()

  const drop = (name: string): void => {
    entries.get(name)?.timer.abort()
    entries.delete(name)
  }

  const keep = (name: string, version: string, opened: Opened): void => {
    const timer = new AbortController()
    entries.set(name, { version, opened, timer })
    clock.sleep(KEEP_MS, timer.signal).then(
      () => drop(name),
      () => undefined,
    )
    for (const oldest of [...entries.keys()].slice(0, Math.max(0, entries.size - MOST_KEYS))) drop(oldest)
  }

  const open = (name: string, material: SecretMaterial): Opened => {
    const held = entries.get(name)
    if (held?.version === material.version) return held.opened
    drop(name)
    const opened = tryOpen(material, parse)
    keep(name, material.version, opened)
    return opened
  }

  return {
    open: (reference, material) => {
      const opened = open(referenceName(reference), material)
      if ('key' in opened) return opened.key
      throw opened.error
    },
    dispose: () => {
      for (const name of [...entries.keys()]) drop(name)
    },
  }
}
