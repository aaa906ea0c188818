import { describe, expect, test } from 'vitest'
import { createGate, createGates } from '../../src/ssh/gate.ts'
import { createRamp, type LoginOutcome } from '../../src/ssh/ramp.ts'
import { fakeClock } from '../connector/fake-clock.ts'

const settled = () => new Promise((resolve) => setImmediate(resolve))

describe('a gate', () => {
  test('lets in so many, and the others in the order in which they came', async () => {
    const gate = createGate(2)
    const order: number[] = []
    const leaving = [0, 1, 2, 3].map(async (n) => {
      const leave = await gate.enter()
      order.push(n)
      return leave
    })
    await settled()
    expect([order, gate.inside(), gate.waiting()]).toEqual([[0, 1], 2, 2])
    const first = await leaving[0]
    first?.()
    first?.()
    await settled()
    expect([order, gate.inside(), gate.waiting()]).toEqual([[0, 1, 2], 2, 1])
  })

  test('lets nobody past who waits, when somebody leaves in that moment', async () => {
    const gate = createGate(1)
    const leave = await gate.enter()
    const waiting = gate.enter()
    leave()
    const late = gate.enter()
    ;(await waiting)()
    ;(await late)()
    expect(gate.inside()).toBe(0)
  })

  test('forgets who gives up', async () => {
    const gate = createGate(1)
    const leave = await gate.enter()
    const abort = new AbortController()
    const given = gate.enter(abort.signal).catch((error: Error) => error.message)
    const next = gate.enter()
    abort.abort(new Error('no more'))
    expect(await given).toBe('no more')
    leave()
    ;(await next)()
    await expect(gate.enter(abort.signal)).rejects.toThrow('no more')
    expect([gate.inside(), gate.waiting()]).toEqual([0, 0])
  })

  test('with a new limit lets in more, or waits until fewer are inside', async () => {
    const gate = createGate(1)
    const leaves = [await gate.enter()]
    const waiting = [gate.enter(), gate.enter()]
    gate.setLimit(2)
    leaves.push((await waiting[0]) as () => void)
    gate.setLimit(0)
    expect(gate.limit()).toBe(1)
    leaves[0]?.()
    await settled()
    expect([gate.inside(), gate.waiting()]).toEqual([1, 1])
    leaves[1]?.()
    ;(await waiting[1])?.()
    expect(gate.inside()).toBe(0)
  })

  test('by name is forgotten when nobody is at it', async () => {
    const gates = createGates(1)
    const leave = await gates.enter('a')
    const waiting = gates.enter('a')
    ;(await gates.enter('b'))()
    expect(gates.size()).toBe(1)
    leave()
    ;(await waiting)()
    expect(gates.size()).toBe(0)
    await expect(gates.enter('c', AbortSignal.abort(new Error('x')))).rejects.toThrow('x')
    expect(gates.size()).toBe(0)
  })
})

describe('the ramp', () => {
  const crowd = (ramp: ReturnType<typeof createRamp>, address: string, size: number) => {
    const inside: ((how: LoginOutcome) => void)[] = []
    for (let n = 0; n < size; n++) void ramp.enter(address).then((leave) => inside.push(leave))
    return inside
  }

  test('begins with few at an address, gets one more with each login, and never too many', async () => {
    const inside = crowd(createRamp(fakeClock(), { first: 2, most: 5 }), 'a', 60)
    const seen: number[] = []
    for (let round = 0; round < 6; round++) {
      await settled()
      seen.push(inside.length)
      for (const leave of inside.splice(0)) leave('logged_in')
    }
    expect(seen).toEqual([2, 4, 5, 5, 5, 5])
  })

  test('halves where one is turned away, down to one', async () => {
    const inside = crowd(createRamp(fakeClock(), { first: 8 }), 'a', 60)
    const seen: number[] = []
    for (let round = 0; round < 5; round++) {
      await settled()
      seen.push(inside.length)
      const leaving = inside.splice(0)
      leaving.shift()?.('turned_away')
      for (const leave of leaving) leave('unreachable')
    }
    expect(seen).toEqual([8, 4, 2, 1, 1])
  })

  test.each([
    ['left', 1500],
    ['key_refused', 5500],
  ] as const)(
    'after one that %s the next waits for %i ms, alone, and the others for their turn',
    async (how, pause) => {
      const clock = fakeClock()
      const ramp = createRamp(clock, { first: 4 })
      const inside = crowd(ramp, 'a', 20)
      const elsewhere = crowd(ramp, 'b', 1)
      await settled()
      for (const leave of inside.splice(0, 2)) leave(how)
      for (const leave of inside.splice(0)) leave('unreachable')
      await clock.advance(2 * pause - 1)
      expect([inside.length, elsewhere.length]).toEqual([0, 1])
      await clock.advance(1)
      expect(inside).toHaveLength(1)
      inside.pop()?.('logged_in')
      await settled()
      expect(inside).toHaveLength(2)
    },
  )

  test('has room for so many in all, and none of it for who waits at a slow address', async () => {
    const ramp = createRamp(fakeClock(), { first: 2, inAll: 3 })
    const slow = crowd(ramp, 'slow', 10)
    await settled()
    const quick = crowd(ramp, 'quick', 2)
    await settled()
    expect([slow.length, quick.length, ramp.underWay()]).toEqual([2, 1, 3])
    quick[0]?.('logged_in')
    await settled()
    expect([slow.length, quick.length]).toEqual([2, 2])
  })
})
