import { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Job } from '../protocol/job.ts'
import { withDeadline } from '../ssh/deadline.ts'
import type { CheckedAddress } from '../ssh/socket.ts'
import type { Resolve } from './addresses.ts'
import type { DefaultLimits } from './default-limits.ts'
import type { Denial } from './denial.ts'
import type { GuardLimitsSource } from './guard-file-watch.ts'
import type { Place } from './host-rules.ts'
import { addressesDenial, firstPlace, judgeJob, type Setting } from './verdict.ts'

/**
 * The customer's own limits: what no control plane, however it was taken over, can make this connector do.
 *
 * Every job passes `admit` before a secret is read or a socket opened, and can only connect to the addresses that it
 * returns. What it holds a job to is in verdict.ts; here is only what has to be asked of the world: the file and DNS.
 */
export interface Guard {
  /**
   * The addresses of what the connector itself connects to: the server, or the first jump host. What comes after that is
   * resolved by the jump host before it. Fails with `denied_by_guard`, `guard_file_unusable`, or `ssh_unreachable`/`ssh_timeout` when the name
   * cannot be resolved.
   */
  admit(job: Job, signal: AbortSignal): Promise<readonly CheckedAddress[]>
}

export interface GuardOptions extends DefaultLimits {
  readonly clock: Clock
  readonly resolve: Resolve
  readonly resolveTimeoutMs: number
}

const asError = ({ code, message, hint }: Denial): JobError =>
  new JobError(code ?? 'denied_by_guard', message, { detail: hint })

const findAddresses = async ({ host, port }: Place, options: GuardOptions, signal: AbortSignal) => {
  const facts = { host, port }
  const unresolved = (cause?: unknown) =>
    new JobError('ssh_unreachable', 'the name of the server cannot be resolved', facts, { cause })
  try {
    const addresses = await withDeadline(options.resolve(host), {
      clock: options.clock,
      ms: options.resolveTimeoutMs,
      signal,
      onTimeout: () => new JobError('ssh_timeout', 'the name of the server was not resolved in time', facts),
      onAbort: () => new JobError('cancelled', 'called off while resolving the name of the server', facts),
    })
    if (addresses.length === 0) throw unresolved()
    return addresses
  } catch (error) {
    throw error instanceof JobError ? error : unresolved(error)
  }
}

/**
 * `file`: the customer's guard file, or null. The rules of the moment hold for the whole of a job's admission. The first
 * place is resolved once: what was checked is what is connected to, so that a name cannot point elsewhere a moment later.
 */
export const createGuard = (options: GuardOptions, file: GuardLimitsSource | null): Guard => ({
  admit: async (job, signal) => {
    const { secretDirectory, allowLoopback, clock } = options
    const setting: Setting = { secretDirectory, allowLoopback, limits: file?.() ?? null, now: clock.now() }
    const verdict = judgeJob(job, setting)
    if (verdict.denied !== null) throw asError(verdict.denied)
    const addresses = await findAddresses(firstPlace(job), options, signal)
    const denied = addressesDenial(job, addresses, verdict.networks, setting)
    if (denied !== null) throw asError(denied)
    return addresses
  },
})

/**
 * The limits that hold without a guard file: no adoption, 30 days at most, no link-local and (outside `standalone`) no
 * loopback target, secret files under one directory only, Azure vaults of Azure's domains only, no secret names but such
 * as the stores have.
 */
export const defaultGuard = (options: GuardOptions): Guard => createGuard(options, null)
