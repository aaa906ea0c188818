import { expect, test } from 'vitest'
import type { ApiClient } from '../../src/connector/api-client.ts'
import { createOutage } from '../../src/connector/outage.ts'
import { createRegistration } from '../../src/connector/register.ts'
import { createSkew } from '../../src/connector/skew.ts'
import type { Clock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import { DEFAULT_KNOBS } from '../../src/protocol/calls.ts'
import { REGISTER } from './setup.ts'

const SERVER = Date.parse('2026-11-22T15:00:00.000Z')

test('a clock that is set right after the start is believed from the next answer on', async () => {
  let wall = SERVER - 600_000
  let monotonic = 1000
  const clock: Clock = { now: () => wall, monotonic: () => monotonic, sleep: async () => undefined }
  const log = createLogger('error', { write: () => undefined })
  const serverTime = new Date(SERVER).toISOString()
  const api = {
    register: async () => ({ serverTime, protocol: 1, controlPlaneId: 'cp_1', knobs: DEFAULT_KNOBS }),
  } as Partial<ApiClient> as ApiClient
  const skew = createSkew(clock, log)
  const registration = createRegistration({
    api,
    clock,
    log,
    outage: createOutage(clock, log),
    skew,
    request: REGISTER,
    onRegistered: () => undefined,
  })
  await registration.ensure(new AbortController().signal)
  expect(skew.now()).toBe(SERVER)

  wall = SERVER + 20_000
  monotonic += 20_000
  expect(skew.now()).toBe(SERVER + 620_000)
  skew.observe(new Date(SERVER + 20_000).toISOString(), monotonic)
  expect(skew.now()).toBe(SERVER + 20_000)
})
