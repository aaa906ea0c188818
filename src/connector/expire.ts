import type { JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { Logger } from '../observability/log.ts'
import type { KnownGrant } from '../protocol/calls.ts'
import type { AbsentResult } from '../protocol/results.ts'
import { createGate } from '../ssh/gate.ts'
import type { ExpiryOutcome } from './executor.ts'
import type { KnownGrants } from './known-grants.ts'
import type { Outbox } from './report.ts'
import type { Skew } from './skew.ts'

/**
 * The connector's own part in ending access, without a control plane: a timer for each grant that it knows, overdue ones first.
 * It asks the server, whose ledger decides: an extension that this connector has not heard of wins there. While the control
 * plane is there its job comes at the same moment, and is given a moment's start.
 */
export interface ExpireDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly known: KnownGrants
  readonly skew: Pick<Skew, 'now'>
  readonly outbox: Pick<Outbox, 'add'>
  /** Whether the control plane has answered lately. */
  readonly isReady: () => boolean
  /** Never rejects. */
  readonly end: (known: KnownGrant, signal: AbortSignal) => Promise<ExpiryOutcome>
}

const GIVEN_START_MS = 2000
/** A clock may be set: nothing is waited for longer. */
const LOOK_EVERY_MS = 30_000
/** At once, over all servers; on one server they come after another. */
const AT_ONCE = 32
const FIRST_RETRY_MS = 15_000
const LAST_RETRY_MS = 3_600_000

export const expireLoop = async (deps: ExpireDeps, signal: AbortSignal): Promise<void> => {
  const { clock, log, known, skew, outbox } = deps
  const gate = createGate(AT_ONCE)
  // By what is known, not by name: an extension begins anew.
  const failures = new WeakMap<KnownGrant, number>()
  const running = new Set<Promise<void>>()
  const now = (): number => Math.max(clock.now(), skew.now())

  const failed = (one: KnownGrant, error: JobError): void => {
    const { grant, server } = one
    const times = (failures.get(one) ?? 0) + 1
    failures.set(one, times)
    const retryInMs = Math.min(FIRST_RETRY_MS * 2 ** (times - 1), LAST_RETRY_MS)
    known.postpone(grant.id, now() + retryInMs)
    const fields = {
      event: 'expiry_failed',
      grantId: grant.id,
      server: server.name,
      code: error.code,
      retryInMs,
    }
    if (times === 1) log.warn({ ...fields, reason: error.message }, 'a grant that is over could not be ended')
  }

  const ended = (one: KnownGrant, result: AbsentResult): void => {
    const { grant, server } = one
    const { id, generation, login } = grant
    const isCurrent = known.has(one)
    const at = new Date(skew.now()).toISOString()
    outbox.add({ grantId: id, generation, at, outcome: 'expired', result }, isCurrent ? { forget: id } : undefined)
    if (isCurrent) known.forget(id)
    const fields = { event: 'grant_expired', grantId: id, generation, login, server: server.name }
    log.info({ ...fields, changed: result.changed }, 'a grant that is over was ended')
  }

  const apply = (one: KnownGrant, outcome: ExpiryOutcome): void => {
    const { id } = one.grant
    if (outcome.outcome === 'ended') ended(one, outcome.result)
    // An extension that was learnt meanwhile has a time of its own.
    else if (!known.has(one)) return
    else if (outcome.outcome === 'not_due') known.postpone(id, outcome.until)
    // The ledger does not know it: that is for a job of the control plane's to look into.
    else if (outcome.error.code === 'ledger_lost') known.forget(id)
    else failed(one, outcome.error)
  }

  const run = async (one: KnownGrant): Promise<void> => {
    const leave = await gate.enter(signal)
    try {
      const outcome = await deps.end(one, signal)
      // What was called off at our own end is the next process's.
      if (outcome.outcome !== 'failed' || !signal.aborted) apply(one, outcome)
    } finally {
      leave()
    }
  }

  const startDue = (): void => {
    for (const one of known.takeDue(now() - (deps.isReady() ? GIVEN_START_MS : 0))) {
      const ending = run(one)
        .catch(() => known.postpone(one.grant.id, now() + FIRST_RETRY_MS))
        .finally(() => running.delete(ending))
      running.add(ending)
    }
  }

  while (!signal.aborted) {
    startDue()
    const wait = known.nextDue() - now() + (deps.isReady() ? GIVEN_START_MS : 0)
    await known.news.wait(Math.max(10, Math.min(wait, LOOK_EVERY_MS)), signal)
  }
  await Promise.allSettled(running)
}
