import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import { createLogger } from '../../src/observability/log.ts'
import { secretOf } from '../../src/secrets/secret.ts'

const VALUE = 'hunter2-hunter2'

describe('a Secret', () => {
  const printed: [string, (secret: unknown) => string][] = [
    ['String()', (secret) => String(secret)],
    ['a template', (secret) => `${secret}`],
    ['JSON', (secret) => JSON.stringify({ deep: { secret } })],
    ['inspect', (secret) => inspect({ deep: [{ secret }] }, { depth: 10, showHidden: true })],
    ['an error message', (secret) => new Error(`no: ${secret}`).message],
    ['Object.entries', (secret) => inspect(Object.entries(secret as object), { showHidden: true })],
    ['spread', (secret) => JSON.stringify({ ...(secret as object) })],
  ]
  test.each(printed)('does not show in %s', (_how, print) => {
    expect(print(secretOf(VALUE))).not.toContain('hunter2')
  })

  test('does not show in a log line', () => {
    const lines: string[] = []
    const log = createLogger('debug', { write: (line) => void lines.push(line) })
    const secret = secretOf(VALUE)
    log.info({ secret, deep: { secret } }, 'line')
    expect(lines.join()).toContain('[secret]')
    expect(lines.join()).not.toContain('hunter2')
  })

  test('gives its content to who asks, and nothing after disposal', () => {
    const bytes = Buffer.from(VALUE)
    const secret = secretOf(bytes)
    expect(secret.reveal()).toBe(VALUE)
    secret.dispose()
    secret.dispose()
    expect(bytes.every((byte) => byte === 0)).toBe(true)
    expect(() => secret.reveal()).toThrow('disposed')
  })
})
