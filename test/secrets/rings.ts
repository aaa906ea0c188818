import type { Clock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import { fileStore } from '../../src/secrets/file.ts'
import { createKeyRing, type KeyRing, type KeyRingOptions } from '../../src/secrets/key-ring.ts'
import { type SecretStores, secretStores } from '../../src/secrets/stores.ts'

// What a connector without a cloud has.

export const fileStores = (directory: string, clock: Clock): SecretStores =>
  secretStores([fileStore({ directory })], { clock, cloud: 'none', deadlineMs: 5000 })

/** Says nothing. */
export const noLog = createLogger('error', { write: () => undefined })

export const ringOf = (stores: SecretStores, clock: Clock, more: Partial<KeyRingOptions> = {}): KeyRing =>
  createKeyRing({ stores, clock, log: noLog, ...more })

export const fileRing = (directory: string, clock: Clock, more: Partial<KeyRingOptions> = {}): KeyRing =>
  ringOf(fileStores(directory, clock), clock, more)
