import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { errorTable } from '../../src/host/errors.ts'
import { ERRORS_PAGE, errorsPage } from '../../src/host/errors-page.ts'
import { problemErrors } from '../../src/host/problem-errors.ts'

it('docs/errors.md is what the table says: run `npm run docs` after changing it', () => {
  expect(readFileSync(ERRORS_PAGE, 'utf8')).toBe(errorsPage())
})

it('every code is snake_case and every hint says something', () => {
  for (const [code, { hint, seen }] of Object.entries(errorTable)) {
    expect(code).toMatch(/^[a-z][a-z0-9_]*$/)
    expect(seen.length, code).toBeGreaterThan(10)
    expect(hint({}).length, code).toBeGreaterThan(10)
  }
})

it('every code that the program prints is in the table', () => {
  const program = readFileSync(new URL('../../src/host/program.sh', import.meta.url), 'utf8')
  const printed = [
    ...program.matchAll(/\bfail ([a-z_]+)/g),
    ...program.matchAll(/(?:\bproblem |")(?:error|warning|\$bad) ([a-z_]+)/g),
    ...program.matchAll(/\bbad\)?, "([a-z_]+)"/g),
  ].map(([, code]) => code)
  expect(printed.length).toBeGreaterThan(60)
  for (const code of printed) expect(Object.keys(errorTable)).toContain(code)
  const ours = ['list_cut', 'next_key_not_taken', 'next_key_unusable']
  const onlyInspect = Object.keys(problemErrors).filter((code) => !ours.includes(code))
  expect(printed).toEqual(expect.arrayContaining(onlyInspect))
})
