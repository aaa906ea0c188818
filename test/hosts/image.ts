import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { mustRun, runCommand } from './command.ts'

// The image of a test host, built when its content or its base changed and found by its tag otherwise.

const root = join(import.meta.dirname, '..', '..')
const context = join(root, 'docker', 'hosts', 'debian')

/** The image of the default base, set once by the run for its workers. */
export const IMAGE_VARIABLE = 'APONO_TEST_IMAGE'

export const DEFAULT_BASE = 'debian:bookworm-slim'

const images = new Map<string, Promise<string>>()

/** The name of an image that is there: built on `base` (a public name, such as debian:trixie-slim). */
export function hostImage(base: string = DEFAULT_BASE): Promise<string> {
  const known = images.get(base) ?? fromRun(base) ?? build(base)
  images.set(base, known)
  return known
}

function fromRun(base: string): Promise<string> | undefined {
  const image = process.env[IMAGE_VARIABLE]
  return base === DEFAULT_BASE && image ? Promise.resolve(image) : undefined
}

async function build(publicBase: string): Promise<string> {
  const base = await baseImage(publicBase)
  const baseId = await mustRun('docker', ['image', 'inspect', '--format', '{{.Id}}', base])
  const tag = `apono-local/host-debian:${await contentHash(baseId.trim())}`
  const present = await runCommand('docker', ['image', 'inspect', '--format', '{{.Id}}', tag])
  if (present.code === 0) return tag
  process.stderr.write(`test hosts: building ${tag} on ${base}\n`)
  await mustRun('docker', ['build', '--quiet', '--build-arg', `BASE=${base}`, '--tag', tag, context], {
    timeoutMs: 600_000,
  })
  return tag
}

async function baseImage(publicBase: string): Promise<string> {
  const chosen = process.env['APONO_BASE_DEBIAN']
  if (publicBase === DEFAULT_BASE && chosen) return chosen
  const script = join(root, 'docker', 'base-images.sh')
  const output = await mustRun('sh', [script, publicBase], { timeoutMs: 900_000, progress: true })
  const line = output.trim().split('\n').at(-1) ?? ''
  return line.slice(line.indexOf('=') + 1)
}

async function contentHash(baseId: string): Promise<string> {
  const hash = createHash('sha256').update(baseId)
  for (const name of (await readdir(context)).sort()) {
    hash.update(`\0${name}\0`).update(await readFile(join(context, name)))
  }
  return hash.digest('hex').slice(0, 16)
}
