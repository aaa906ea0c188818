import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { GuardRules, ReadRules } from './guard-file.ts'
import { readOpenGuardFile, unreadable, withGuardFile } from './guard-file-read.ts'

/**
 * The guard file of a running connector: looked at once a second at most, and read when it has changed.
 *
 * - While it is broken its last good rules are kept, for what they are still good for: the ends of grants.
 * - A file that was changed within the last second is left alone until it has been still for that long: half of one that
 *   is being written may be sound YAML with fewer limits. Until then the former rules hold. This does not help against
 *   writing more slowly than that; moving a finished file into place does.
 */
const LOOK_EVERY_MS = 1000
const STILL_MS = 1000

/** What holds at a moment. */
export interface GuardLimits {
  readonly path: string
  /** Those of the file, or while that is broken its last good ones. */
  readonly rules: GuardRules
  /** Why the file can't be used as it is; empty where it can. */
  readonly problems: readonly string[]
}

export type GuardLimitsSource = () => GuardLimits

/** `stamp`: null where there is none to compare, so that it is read again. */
interface Look {
  readonly read: ReadRules
  readonly stamp: string | null
}

/** What was seen of a file that was not still; null where the look is the newest. */
type Seen = { readonly look: Look; readonly moving: string | null }

const look = (path: string, former: Seen | null, clock: Clock): Seen => {
  try {
    return withGuardFile(path, (file): Seen => {
      const { stamp, stats } = file
      if (former !== null && former.look.stamp === stamp) return { look: former.look, moving: null }
      const isStill =
        former === null || former.moving === stamp || Math.abs(clock.now() - Number(stats.ctimeMs)) > STILL_MS
      if (!isStill) return { look: former.look, moving: stamp }
      const read = readOpenGuardFile(file)
      const movedOn = former !== null && file.stampNow() !== stamp
      return movedOn ? { look: former.look, moving: null } : { look: { read, stamp }, moving: null }
    })
  } catch (error) {
    return { look: { read: unreadable(error), stamp: null }, moving: null }
  }
}

const countOf = (list: readonly unknown[] | undefined): number | undefined => list?.length

/** One line when it breaks, one when it is mended, one when it has changed, and one for the first reading. */
const tell = (log: Logger, path: string, former: ReadRules | undefined, now: ReadRules): void => {
  if (!now.ok) {
    const fields = { event: 'guard_file_broken', path, problems: now.problems }
    if (former?.ok !== false) log.error(fields, 'the guard file cannot be used: nothing but ends is done until it can')
    return
  }
  const { hosts, secrets, logins, groups, adopt, maxGrantMs, policy } = now.rules
  const fields = {
    path,
    hosts: countOf(hosts),
    secrets: countOf(secrets),
    logins: countOf(logins),
    groups: countOf(groups),
    adopt: typeof adopt === 'object' ? adopt.length : adopt,
    maxGrantMs,
    policy: policy && Object.keys(policy),
  }
  if (former?.ok === false) log.info({ event: 'guard_file_mended', ...fields }, 'the guard file can be used again')
  else log.info({ event: 'guard_file_read', ...fields }, 'the limits of the guard file are in force')
}

/** Throws where the file can't be used at the start: there is nothing yet to fall back on. */
export const watchGuardFile = (path: string, clock: Clock, log?: Logger): GuardLimitsSource => {
  let seen = look(path, null, clock)
  let lookedAt = clock.monotonic()
  if (!seen.look.read.ok) throw new Error(`APONO_GUARD_FILE: ${path}: ${seen.look.read.problems.join('; ')}`)
  let { rules } = seen.look.read
  if (log !== undefined) tell(log, path, undefined, seen.look.read)

  const lookAgain = (): void => {
    const former = seen.look
    seen = look(path, seen, clock)
    if (seen.look === former) return
    if (seen.look.read.ok) rules = seen.look.read.rules
    if (log !== undefined) tell(log, path, former.read, seen.look.read)
  }

  return () => {
    const now = clock.monotonic()
    if (now - lookedAt >= LOOK_EVERY_MS) {
      lookedAt = now
      lookAgain()
    }
    const { read } = seen.look
    return { path, rules, problems: read.ok ? [] : read.problems }
  }
}
