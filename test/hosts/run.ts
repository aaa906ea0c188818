import { spawnSync } from 'node:child_process'
import { readFileSync, readlinkSync } from 'node:fs'
import { hostname } from 'node:os'

// A run is one process that starts hosts, and its workers. It is named by pid and start time, so that a
// recycled pid does not pass for a living run; a machine is named by boot and pid namespace, because
// only there does a pid mean anything: an engine may be shared with machines whose processes we can't see.

export type RunOwner = { run: string; machine: string; hostname: string }

/** Set by the run's first process, inherited by its workers. */
export const RUN_VARIABLE = 'APONO_TEST_RUN'

export function currentRun(): RunOwner {
  return { run: process.env[RUN_VARIABLE] ?? ownRun(), machine: thisMachine(), hostname: hostname() }
}

/** True when this process is a run of its own and not a worker of another. */
export function ownsRun(): boolean {
  return (process.env[RUN_VARIABLE] ?? ownRun()) === ownRun()
}

export function ownRun(): string {
  return `${process.pid}-${startTime(process.pid)}`
}

export type Fate = 'alive' | 'dead' | 'unknown'

/** What became of the run that owns something. `unknown` is never ours to clean up. */
export function fateOf(owner: RunOwner): Fate {
  if (owner.machine !== thisMachine()) return 'unknown'
  const [pid, ...rest] = owner.run.split('-')
  const started = startTime(Number(pid))
  return started !== undefined && started === rest.join('-') ? 'alive' : 'dead'
}

function thisMachine(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    return `${boot} ${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    return hostname()
  }
}

function startTime(pid: number): string | undefined {
  if (!Number.isInteger(pid) || pid <= 0) return undefined
  if (process.platform !== 'linux') return startTimeByPs(pid)
  try {
    // The second field is the program's name in parentheses and may hold anything; the rest is clean.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [state] = fields
    return state === 'Z' || state === 'X' ? undefined : fields[19]
  } catch {
    return undefined
  }
}

function startTimeByPs(pid: number): string | undefined {
  const ps = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' })
  const text = ps.stdout.trim().replaceAll(/\W+/g, '.')
  return text === '' ? undefined : text
}
