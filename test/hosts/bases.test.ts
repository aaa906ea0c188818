import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { BASES_VARIABLE, baseImage, missingBase } from './bases.ts'
import { runCommand } from './command.ts'

const script = join(import.meta.dirname, '..', '..', 'docker', 'base-images.sh')

afterEach(() => vi.unstubAllEnvs())

test('what can neither be found nor pulled is told and no failure, with --pull-only', async () => {
  const here = await baseImage('debian:bookworm-slim')
  const { code, stdout, stderr } = await runCommand('sh', [script, '--pull-only', 'apono-local/nosuch:none', here])
  expect({ code, stdout }).toEqual({ code: 0, stdout: `apono-local/nosuch:none=\n${here}=${here}\n` })
  expect(stderr).toContain('cannot pull apono-local/nosuch:none from here')
  expect((await runCommand('sh', [script, 'apono-local/nosuch:none'])).code).toBe(1)
})

test('a kind is missing where its base is, and is not where it was found', () => {
  vi.stubEnv(
    BASES_VARIABLE,
    'debian:trixie-slim=apono-local/debian:trixie-slim ubuntu:24.04= archlinux:base=mirror/arch',
  )
  expect(missingBase('ubuntu')).toBe('ubuntu:24.04')
  expect(missingBase('rocky9')).toBe('rockylinux/rockylinux:9')
  expect(missingBase('arch')).toBeUndefined()
  // Those that we can make are never missing.
  expect(missingBase('debian11')).toBeUndefined()
  expect(missingBase('sudo-rs')).toBeUndefined()
})

test('the base that the run found is the one to build on', async () => {
  vi.stubEnv(BASES_VARIABLE, 'archlinux:base=mirror/arch')
  expect(await baseImage('archlinux:base')).toBe('mirror/arch')
})
