import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import {
  ClaimRequest,
  DeregisterRequest,
  RegisterRequest,
  RenewRequest,
  type Report,
} from '../../src/protocol/calls.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type FakeControlPlane, problem, startFakeControlPlane } from './fake-control-plane.ts'
import { job } from './jobs.ts'
import { type Running, startTestConnector } from './setup.ts'

// The daemon against a real HTTP server that behaves, fails, lies and goes away. Jobs end before they reach a server
// (unsupported or invalid), or hang in a secret that never comes, so that only the loops are looked at.

let controlPlane: FakeControlPlane
let running: Running | null = null

beforeEach(async () => {
  controlPlane = await startFakeControlPlane()
})
afterEach(async () => {
  await running?.connector.stop()
  running = null
  await controlPlane.close()
})

/** Waits no more than 30 ms for anything, and counts how often it waited. */
let waits = 0
const impatient = {
  ...systemClock,
  sleep: (ms: number, signal?: AbortSignal) => {
    waits++
    return systemClock.sleep(Math.min(ms, 30), signal)
  },
}
/** Resolves when the connector has waited another 30 times: enough to have written a line each time. */
const manyWaits = async (): Promise<void> => {
  const from = waits
  await expect.poll(() => waits, { timeout: 10_000 }).toBeGreaterThan(from + 30)
}
const start = async (options: Parameters<typeof startTestConnector>[1] = {}): Promise<Running> => {
  running = await startTestConnector(controlPlane, options)
  return running
}
const soonJob = (jobId: string) => ({ ...job({ jobId }), kind: 'reboot' })
const events = (name: string) => running?.lines.filter((line) => line['event'] === name) ?? []
const reportOf = (jobId: string): Report | undefined =>
  controlPlane.reports().find((report) => 'jobId' in report && report.jobId === jobId)
const count = (call: 'register' | 'claim' | 'renew' | 'report'): number =>
  controlPlane.seen.filter((seen) => seen.call === call).length

describe('the ordinary round', () => {
  test('registers once, says who it is, claims and reports', async () => {
    await start()
    controlPlane.enqueue(soonJob('job_a'), { ...job({ jobId: 'job_b', grant: { login: 'a;b' } }) })
    await controlPlane.until(() => reportOf('job_a') !== undefined && reportOf('job_b') !== undefined, 'both outcomes')
    const [register] = controlPlane.calls('register', RegisterRequest)
    expect(register).toMatchObject({ connectorId: 'test-1', version: '0.0.0-test', secretStores: ['file'], slots: 16 })
    expect(count('register')).toBe(1)
    expect(reportOf('job_a')).toMatchObject({ outcome: 'failed', error: { code: 'unsupported_job', retryable: false } })
    expect(reportOf('job_b')).toMatchObject({ outcome: 'failed', error: { code: 'invalid_grant' } })
    expect(controlPlane.seen.every(({ authorization }) => authorization === 'Bearer test-token-5f3a')).toBe(true)
  })

  test('a job that cannot be read does not hide the others', async () => {
    await start()
    controlPlane.enqueue(null, { kind: 'ensure' }, soonJob('job_a'))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'the readable one')
    expect(events('job_unreadable')).toHaveLength(2)
  })

  test('the audit line of a job says who, where, what and how it ended', async () => {
    await start()
    controlPlane.enqueue(job({ jobId: 'job_a', epoch: 7, port: 1, secretPath: '/etc/shadow' }))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'the outcome')
    expect(events('job_finished')).toEqual([
      expect.objectContaining({
        jobId: 'job_a',
        epoch: 7,
        grantId: 'grt_1',
        generation: 1,
        state: 'present',
        login: 'dana',
        server: 'one',
        outcome: 'failed',
        code: 'denied_by_guard',
        ms: expect.any(Number),
      }),
    ])
    expect(running?.logText()).not.toContain('dana@example.com')
  })

  test('renews although nothing is in flight: it is the sign of life', async () => {
    await start()
    await controlPlane.until(() => count('renew') >= 2, 'two renewals')
    expect(controlPlane.calls('renew', RenewRequest)[0]?.inFlight).toEqual([])
  })
})

describe('leases', () => {
  // A name that is never resolved holds a job in the guard, without any server.
  const quickEnd = {
    ...systemClock,
    sleep: (ms: number, signal?: AbortSignal) => systemClock.sleep(ms === 19_000 ? 100 : ms, signal),
  }
  const stuck = { resolve: () => new Promise<never>(() => undefined), clock: quickEnd }
  const env = { APONO_SSH_CONNECT_TIMEOUT_MS: '3600000' }
  const stuckJob = (jobId: string, epoch: number) => {
    const raw = job({ jobId, epoch, kind: 'inspect' })
    const store = { type: 'file', path: path.join(running?.secretDirectory ?? '', 'ssh.json') }
    return { ...raw, integration: { ...(raw['integration'] as object), secretStore: store } }
  }

  test('what runs is named in claims and renewals, and never more is claimed than there are slots', async () => {
    await start({ deps: stuck, env: { ...env, APONO_SLOTS: '2' } })
    controlPlane.enqueue(stuckJob('job_a', 1), stuckJob('job_b', 2), stuckJob('job_c', 3))
    await controlPlane.until(
      () => controlPlane.calls('renew', RenewRequest).some(({ inFlight }) => inFlight.length === 2),
      'both in a renewal',
    )
    const claims = count('claim')
    await controlPlane.until(() => count('renew') >= 3, 'time to pass')
    expect(count('claim')).toBe(claims)
    expect(controlPlane.calls('claim', ClaimRequest).every(({ freeSlots }) => freeSlots >= 1)).toBe(true)
    controlPlane.override('renew', (body) => ({
      status: 200,
      body: {
        serverTime: new Date().toISOString(),
        results: RenewRequest.parse(body).inFlight.map((ref) => ({
          ...ref,
          status: ref.epoch === 1 ? 'cancel' : 'ok',
        })),
      },
    }))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'the cancelled one')
    expect(reportOf('job_a')).toMatchObject({ outcome: 'failed', error: { code: 'cancelled', retryable: true } })
    await controlPlane.until(
      () =>
        controlPlane
          .calls('renew', RenewRequest)
          .at(-1)
          ?.inFlight.some(({ jobId }) => jobId === 'job_c') === true,
      'the third in the free slot',
    )
  })

  test('more jobs than it asked for are left to be handed out again', async () => {
    await start({ deps: stuck, env: { ...env, APONO_SLOTS: '1' } })
    const jobs = [stuckJob('job_a', 1), stuckJob('job_b', 2)]
    controlPlane.override('claim', () => {
      const answer = { status: 200, body: { serverTime: new Date().toISOString(), jobs: jobs.splice(0) } }
      return answer.body.jobs.length === 0 ? undefined : answer
    })
    const renewed = () => controlPlane.calls('renew', RenewRequest).flatMap(({ inFlight }) => inFlight)
    await controlPlane.until(() => renewed().length >= 2, 'renewals of the first')
    expect(new Set(renewed().map(({ jobId }) => jobId))).toEqual(new Set(['job_a']))
  })

  test('a lost lease ends the job', async () => {
    await start({ deps: stuck, env })
    controlPlane.override('renew', (body) => ({
      status: 200,
      body: {
        serverTime: new Date().toISOString(),
        results: RenewRequest.parse(body).inFlight.map((ref) => ({ ...ref, status: 'lost' })),
      },
    }))
    controlPlane.enqueue(stuckJob('job_a', 1))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'the outcome')
    expect(reportOf('job_a')).toMatchObject({ error: { code: 'cancelled', message: 'the lease was lost' } })
  })

  test('the same job handed out again takes the place of the older one', async () => {
    await start({ deps: stuck, env })
    controlPlane.enqueue(stuckJob('job_a', 1))
    await controlPlane.until(
      () => (controlPlane.calls('claim', ClaimRequest).at(-1)?.inFlight.length ?? 0) === 1,
      'the first',
    )
    controlPlane.enqueue(stuckJob('job_a', 2))
    await controlPlane.until(() => controlPlane.reports().length === 1, 'the end of the first')
    expect(controlPlane.reports()[0]).toMatchObject({ jobId: 'job_a', epoch: 1, error: { code: 'cancelled' } })
  })

  test('a job is not held longer than jobMaxMs', async () => {
    await controlPlane.close()
    controlPlane = await startFakeControlPlane({ jobMaxMs: 200 })
    await start({ deps: stuck, env })
    controlPlane.enqueue(stuckJob('job_a', 1))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'the outcome')
    expect(reportOf('job_a')).toMatchObject({
      error: { code: 'cancelled', message: expect.stringContaining('longer') },
    })
  })

  test('stopping releases what still runs and does not report it', async () => {
    await start({ deps: stuck, env })
    controlPlane.enqueue(stuckJob('job_a', 1))
    await controlPlane.until(
      () => (controlPlane.calls('renew', RenewRequest).at(-1)?.inFlight.length ?? 0) === 1,
      'it to run',
    )
    await running?.connector.stop()
    expect(controlPlane.calls('deregister', DeregisterRequest)).toEqual([
      { instanceId: running?.connector.instanceId, release: [{ jobId: 'job_a', epoch: 1 }] },
    ])
    expect(controlPlane.reports()).toEqual([])
  })
})

describe('a control plane in trouble', () => {
  test('away at the start and for long: one line when it fails, one when it is back, and work goes on', async () => {
    await controlPlane.pause()
    await start({ deps: { clock: impatient } })
    await manyWaits()
    expect(events('control_plane_failing')).toHaveLength(1)
    expect(events('control_plane_recovered')).toHaveLength(0)
    await controlPlane.resume()
    controlPlane.enqueue(soonJob('job_a'))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'the first job')
    expect(events('control_plane_recovered')).toHaveLength(1)

    await controlPlane.pause()
    await expect.poll(() => events('control_plane_failing').length).toBe(2)
    await manyWaits()
    await controlPlane.resume()
    controlPlane.enqueue(soonJob('job_b'))
    await controlPlane.until(() => reportOf('job_b') !== undefined, 'the second job')
    await expect.poll(() => events('control_plane_recovered').length).toBe(2)
    expect(events('control_plane_failing')).toHaveLength(2)
  })

  test('an outcome waits until the control plane takes it, however often it fails', async () => {
    await start({ deps: { clock: impatient } })
    controlPlane.override('report', (_body, nth) => {
      if (nth === 1) return { status: 500, text: 'no' }
      if (nth === 2) return { status: 200, text: '<html>proxy</html>' }
      if (nth === 3) return { status: 302, headers: { location: `${controlPlane.url}/connector/v1/stolen` } }
      return nth === 4 ? { status: 200, body: { results: [] } } : undefined
    })
    controlPlane.enqueue(soonJob('job_a'))
    await controlPlane.until(() => count('report') >= 5, 'five attempts')
    await expect.poll(() => events('control_plane_recovered').length).toBe(1)
    expect(new Set(controlPlane.reports().map((report) => JSON.stringify(report))).size).toBe(1)
    const claimed = controlPlane.calls('claim', ClaimRequest).at(-1)
    expect(claimed?.inFlight.length).toBeLessThanOrEqual(1)
  })

  test('answers that confirm nothing do not make it report in a hot loop', async () => {
    await start()
    controlPlane.override('report', () => ({ status: 200, body: { results: [] } }))
    controlPlane.enqueue(soonJob('job_a'))
    await controlPlane.until(() => count('renew') >= 3, 'time to pass')
    expect(count('report')).toBeLessThan(20)
    controlPlane.clearOverrides()
  })

  test.each([
    [400, 'invalid_body'],
    [409, 'conflict'],
    [500, 'internal_error'],
  ])('a report that the control plane answers with %i does not hold up the others', async (status, code) => {
    await start({ deps: { clock: impatient } })
    controlPlane.override('report', (body) =>
      JSON.stringify(body).includes('job_poison') ? problem(status, code) : undefined,
    )
    controlPlane.enqueue(soonJob('job_poison'), soonJob('job_a'), soonJob('job_b'))
    const alone = (jobId: string) => () =>
      controlPlane.seen.some(({ call, body }) => {
        const text = JSON.stringify(body)
        return call === 'report' && text.includes(jobId) && !text.includes('job_poison')
      })
    await controlPlane.until(() => alone('job_a')() && alone('job_b')(), 'the others')
    controlPlane.clearOverrides()
    const before = count('report')
    await controlPlane.until(
      () => count('report') > before && reportOf('job_poison') !== undefined,
      'the refused one again',
    )
  })

  test('409 unknown_instance: registers again under the same instance', async () => {
    await start()
    await controlPlane.until(() => count('claim') >= 1, 'the first claim')
    let refused = false
    controlPlane.override('claim', () => {
      if (refused) return undefined
      refused = true
      return problem(409, 'unknown_instance')
    })
    await controlPlane.until(() => count('register') === 2, 'a second registration')
    controlPlane.enqueue(soonJob('job_a'))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'work to go on')
    const registered = controlPlane.calls('register', RegisterRequest)
    expect(registered).toHaveLength(2)
    expect(registered[0]?.instanceId).toBe(registered[1]?.instanceId)
    expect(events('control_plane_failing')).toHaveLength(0)
  })

  test('426: stops claiming, goes on renewing and reporting, and takes up again when it is welcome', async () => {
    await start({ deps: { clock: impatient } })
    await controlPlane.until(() => count('claim') >= 1, 'the first claim')
    controlPlane.override('claim', () => problem(426, 'upgrade_required'))
    controlPlane.override('register', () => problem(426, 'upgrade_required'))
    await controlPlane.until(() => count('register') >= 4, 'it to ask again')
    const claims = count('claim')
    const renewals = count('renew')
    await controlPlane.until(() => count('renew') >= renewals + 2, 'renewals')
    expect(count('claim')).toBe(claims)
    expect(events('control_plane_failing')).toHaveLength(1)
    controlPlane.clearOverrides()
    controlPlane.enqueue(soonJob('job_a'))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'work again')
  })

  test('401: the token file is read again, and a rotated token used at once', async () => {
    const file = path.join(scratchDirectory(), 'token')
    writeFileSync(file, 'old-token\n')
    await start({ env: { APONO_TOKEN: '', APONO_TOKEN_FILE: file } })
    await controlPlane.until(() => count('claim') >= 1, 'a claim with the old token')
    writeFileSync(file, 'new-token\n')
    const isOld = () => controlPlane.seen.at(-1)?.authorization === 'Bearer old-token'
    for (const call of ['claim', 'renew', 'report'] as const) {
      controlPlane.override(call, () => (isOld() ? problem(401, 'invalid_token') : undefined))
    }
    await controlPlane.until(() => !isOld(), 'a call with the new token')
    controlPlane.enqueue(soonJob('job_a'))
    await controlPlane.until(() => reportOf('job_a') !== undefined, 'work with the new token')
    expect(controlPlane.seen.at(-1)?.authorization).toBe('Bearer new-token')
    expect(events('control_plane_failing')).toHaveLength(0)
  })

  test('401 that stays: one line, and it keeps trying', async () => {
    controlPlane.override('register', (_body, nth) => (nth < 4 ? problem(401, 'invalid_token') : undefined))
    await start({ deps: { clock: impatient } })
    await controlPlane.until(() => count('claim') >= 1, 'a registration')
    expect(events('control_plane_failing')).toEqual([expect.objectContaining({ code: 'invalid_token', status: 401 })])
  })

  test('an instant empty answer does not make it ask in a hot loop', async () => {
    await controlPlane.close()
    controlPlane = await startFakeControlPlane({ claimWaitMs: 25_000 })
    controlPlane.override('claim', () => ({ status: 204 }))
    await start()
    await controlPlane.until(() => count('renew') >= 3, 'time to pass')
    expect(count('claim')).toBeLessThanOrEqual(4)
  })
})

describe('the end', () => {
  test('stop may be called at any time, more than once, and needs no control plane', async () => {
    await controlPlane.pause()
    const { connector } = await start()
    const from = performance.now()
    await Promise.all([connector.stop(), connector.stop()])
    await connector.done
    expect(performance.now() - from).toBeLessThan(2000)
    await controlPlane.resume()
  })

  test('it ends the long poll, flushes what is left and deregisters', async () => {
    await start()
    await controlPlane.until(() => count('claim') >= 1, 'a claim')
    await running?.connector.stop()
    expect(controlPlane.seen.at(-1)?.call).toBe('deregister')
  })
})
