import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { currentRun, fateOf, ownRun } from './run.ts'

// Key files and the like: one private directory per process, gone with the process; what a killed one
// left goes with the sweep.

const prefix = 'apono-run-'
let directory: string | undefined

/** A new, empty directory that only we can read. */
export function scratchDirectory(): string {
  if (directory === undefined) {
    const made = join(tmpdir(), `${prefix}${ownRun()}`)
    rmSync(made, { recursive: true, force: true })
    mkdirSync(made, { mode: 0o700 })
    process.on('exit', () => rmSync(made, { recursive: true, force: true }))
    directory = made
  }
  return mkdtempSync(join(directory, 'd-'))
}

export function sweepScratch(): void {
  for (const name of readdirSync(tmpdir())) {
    if (!name.startsWith(prefix)) continue
    const fate = fateOf({ ...currentRun(), run: name.slice(prefix.length) })
    if (fate === 'dead') rmSync(join(tmpdir(), name), { recursive: true, force: true })
  }
}
