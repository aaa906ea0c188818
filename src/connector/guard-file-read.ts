import { type BigIntStats, closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { brokenRules, parseGuardFile, type ReadRules } from './guard-file.ts'

/** The guard file on its disk: who may have written it counts as much as what it says. */

const MAX_BYTES = 1024 * 1024
const GROUP_OR_WORLD_WRITES = 0o022n

/** Whoever can write it lifts the limits. */
const statsProblem = (stats: BigIntStats, ownUid: number | undefined): string | null => {
  if (!stats.isFile()) return 'not a regular file'
  if (stats.size > MAX_BYTES) return `larger than ${MAX_BYTES} bytes`
  if ((stats.mode & GROUP_OR_WORLD_WRITES) !== 0n) return 'can be changed by others than its owner (chmod go-w)'
  return stats.uid === 0n || ownUid === undefined || stats.uid === BigInt(ownUid)
    ? null
    : `belongs to uid ${stats.uid}; it must be root's or uid ${ownUid}'s`
}

/** An open file as it is now. `stamp`: differs when the file does. */
interface OpenFile {
  readonly descriptor: number
  readonly stats: BigIntStats
  readonly stamp: string
  /** As `stamp`, but now: another one after reading means that what was read may be half of each. */
  stampNow(): string
}

const stampOf = ({ dev, ino, size, mtimeNs, ctimeNs, mode, uid }: BigIntStats): string =>
  [dev, ino, size, mtimeNs, ctimeNs, mode, uid].join()

/** Checked and read through one descriptor, so that nothing is swapped in between. Throws what the system says. */
export const withGuardFile = <T>(path: string, use: (file: OpenFile) => T): T => {
  // O_NONBLOCK: opening a FIFO must not wait for a writer that never comes.
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const stats = fstatSync(descriptor, { bigint: true })
    const stampNow = (): string => stampOf(fstatSync(descriptor, { bigint: true }))
    return use({ descriptor, stats, stamp: stampOf(stats), stampNow })
  } finally {
    closeSync(descriptor)
  }
}

export const readOpenGuardFile = ({ descriptor, stats }: OpenFile): ReadRules => {
  const problem = statsProblem(stats, process.getuid?.())
  if (problem !== null) return brokenRules([problem])
  const bytes = readFileSync(descriptor)
  if (bytes.length > MAX_BYTES) return brokenRules([`larger than ${MAX_BYTES} bytes`])
  try {
    return parseGuardFile(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    if (error instanceof TypeError) return brokenRules(['not UTF-8'])
    throw error
  }
}

export const unreadable = (error: unknown): ReadRules =>
  brokenRules([`cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown'})`])

/** Once, as it is now. Of a running connector guard-file-watch.ts reads it. */
export const readGuardFile = (path: string): ReadRules => {
  try {
    return withGuardFile(path, readOpenGuardFile)
  } catch (error) {
    return unreadable(error)
  }
}

/** What keeps the file from being used as it is now; empty where nothing does. */
export const guardFileProblems = (path: string): readonly string[] => {
  const read = readGuardFile(path)
  return read.ok ? [] : read.problems
}
