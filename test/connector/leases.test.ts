import { describe, expect, test } from 'vitest'
import { createLeases } from '../../src/connector/leases.ts'
import { fakeClock } from './fake-clock.ts'

const REF = { jobId: 'job_1', epoch: 7 }
const cancelled = expect.objectContaining({ code: 'cancelled' })

describe('a lease', () => {
  test('allows side effects for two thirds of its time, counted from when the claim was sent', async () => {
    const clock = fakeClock()
    const leases = createLeases(clock)
    await clock.advance(25_000) // The claim waited for the job.
    const lease = leases.add(REF, 60_000, 0)
    lease?.checkpoint()
    await clock.advance(15_000)
    lease?.checkpoint()
    await clock.advance(1)
    expect(() => lease?.checkpoint()).toThrow(cancelled)
  })

  test('a renewal counts from when it was sent, and never backwards', async () => {
    const clock = fakeClock()
    const leases = createLeases(clock)
    const lease = leases.add(REF, 60_000, 0)
    await clock.advance(39_000)
    leases.renewed(REF, 20_000)
    leases.renewed(REF, 10_000)
    await clock.advance(20_000)
    lease?.checkpoint()
    await clock.advance(2_000)
    expect(() => lease?.checkpoint()).toThrow(cancelled)
  })

  test('is due for renewal after a third; one that was called off never again', async () => {
    const leases = createLeases(fakeClock())
    expect(leases.renewalDue()).toBe(Number.POSITIVE_INFINITY)
    leases.add(REF, 60_000, 1000)
    leases.add({ jobId: 'job_2', epoch: 8 }, 30_000, 2000)
    expect(leases.renewalDue()).toBe(12_000)
    leases.callOff({ jobId: 'job_2', epoch: 8 }, 'lost')
    expect(leases.renewalDue()).toBe(21_000)
  })

  test('called off: nothing more may happen', () => {
    const leases = createLeases(fakeClock())
    const lease = leases.add(REF, 60_000, 0)
    leases.callOff(REF, 'why not')
    expect(lease?.signal.aborted).toBe(true)
    expect(() => lease?.checkpoint()).toThrow('why not')
    expect(leases.refs()).toEqual([REF])
  })

  test('the same hand-out is taken once; a newer one calls the older off', () => {
    const leases = createLeases(fakeClock())
    const first = leases.add(REF, 60_000, 0)
    expect(leases.add(REF, 60_000, 0)).toBeNull()
    const second = leases.add({ ...REF, epoch: 8 }, 60_000, 0)
    expect(first?.signal.aborted).toBe(true)
    expect(second?.signal.aborted).toBe(false)
  })
})
