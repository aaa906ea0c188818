import type { Clock } from '../../observability/clock.ts'
import type { Logger } from '../../observability/log.ts'
import type { Random } from '../../observability/random.ts'
import type { Knobs } from '../../protocol/calls.ts'
import type { Defects } from './attempt.ts'
import type { KeySeal } from './key-seal.ts'

/** What the domain is given besides records. */
export interface Deps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly knobs: Knobs
  readonly seal: KeySeal
  /** Which of many is failing just now. */
  readonly defects: Defects
}

/** An id that says what it names: `grt_` and 80 random bits. Fits protocol.md's allow-list for ids on servers. */
export const newId = (prefix: string, random: Random): string => `${prefix}_${random(10).toString('hex')}`
