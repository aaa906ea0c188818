import { createHash } from 'node:crypto'
import { constants, type Stats } from 'node:fs'
import { type FileHandle, open, realpath } from 'node:fs/promises'
import path from 'node:path'
import { JobError } from '../host/errors.ts'
import { materialOf, type SecretMaterial } from './material.ts'
import type { SecretStore } from './secret-store.ts'
import { unreachable } from './store-errors.ts'

/** A private key with wrapping is under 20 KiB; what is larger is not one. */
const MAX_BYTES = 64 * 1024
const GROUP_OR_WORLD = 0o077
/** It stands in the commands that are told for it. */
const PLAIN = /^[A-Za-z0-9._@+=,:/-]{1,4096}$/

export interface FileStoreOptions {
  /** Absolute. Files outside it are refused, whatever the control plane asks for. */
  readonly directory: string
}

const denied = (message: string, hint: string): JobError =>
  new JobError('secret_access_denied', message, { detail: hint })

const notFound = (file: string): JobError =>
  new JobError('secret_not_found', `no secret file at ${file}`, {
    detail: `A file that it could be made from: (umask 077; printf '{"base64_private_key":"%s"}' "$(base64 -w0 key.pem)" > ${file})`,
  })

const isInside = (directory: string, file: string): boolean => file.startsWith(`${directory}${path.sep}`)

/** Both sides with links resolved, so that no link in the middle of a path leads out of the directory. */
const locate = async (directory: string, file: string): Promise<string> => {
  if (!PLAIN.test(file)) {
    throw denied('the path of the secret is not a plain one', 'Name it with letters, digits and ._@+=,:- only.')
  }
  if (!path.isAbsolute(file) || file.split('/').includes('..') || !isInside(path.resolve(directory), file)) {
    throw denied('the secret file is outside the directory for secrets', `Keep it in ${directory} (APONO_SECRET_DIR).`)
  }
  const [realDirectory, realParent] = await Promise.all([realpath(directory), realpath(path.dirname(file))])
  if (realParent !== realDirectory && !isInside(realDirectory, realParent)) {
    throw denied('a link leads out of the directory for secrets', `Keep it in ${directory} (APONO_SECRET_DIR).`)
  }
  return path.join(realParent, path.basename(file))
}

const checkStats = (stats: Stats, file: string, ownUid: number | undefined): void => {
  if (!stats.isFile()) throw denied(`${file} is not a regular file`, 'Replace it with a regular file.')
  if ((stats.mode & GROUP_OR_WORLD) !== 0) {
    throw denied(`${file} can be read or changed by others than its owner`, `chmod 600 ${file}`)
  }
  if (stats.uid !== 0 && ownUid !== undefined && stats.uid !== ownUid) {
    throw denied(`${file} belongs to uid ${stats.uid}`, `chown ${ownUid} ${file} && chmod 600 ${file}`)
  }
  if (stats.size > MAX_BYTES) {
    throw new JobError('secret_malformed', `${file} is larger than ${MAX_BYTES} bytes`)
  }
}

const versionOf = (stats: Stats): string =>
  createHash('sha256').update(`${stats.mtimeMs}:${stats.ctimeMs}:${stats.size}:${stats.ino}`).digest('hex').slice(0, 32)

/** Everything is checked on the open file, so that nothing can be swapped between the check and the read. */
const readOpen = async (handle: FileHandle, file: string): Promise<SecretMaterial> => {
  const stats = await handle.stat()
  checkStats(stats, file, process.getuid?.())
  const bytes = Buffer.alloc(MAX_BYTES + 1)
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0)
  try {
    if (bytesRead > MAX_BYTES) throw new JobError('secret_malformed', `${file} is larger than ${MAX_BYTES} bytes`)
    return materialOf(bytes.subarray(0, bytesRead), versionOf(stats))
  } finally {
    bytes.fill(0)
  }
}

const explain = (error: unknown, file: string): unknown => {
  if (error instanceof JobError) return error
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG') return notFound(file)
  if (code === 'EACCES' || code === 'EPERM')
    return denied(`${file} cannot be read`, `chown the file to the connector's user and chmod 600 ${file}`)
  if (code === 'ELOOP') return denied(`${file} is a symbolic link`, 'Replace it with a regular file.')
  // A disk or a network file system that does not answer.
  return code === undefined ? error : unreachable(`${file} cannot be read now (${code})`)
}

/** O_NONBLOCK: opening a FIFO must not wait for a writer that never comes. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

const readFile = async (directory: string, file: string): Promise<SecretMaterial> => {
  const handle = await open(await locate(directory, file), OPEN_FLAGS)
  try {
    return await readOpen(handle, file)
  } finally {
    await handle.close()
  }
}

/** Secrets in local files, one JSON object each, readable by nobody but the connector (or root). */
export const fileStore = (options: FileStoreOptions): SecretStore<'file'> => ({
  type: 'file',
  askAlways: true,
  read: async (reference) => {
    try {
      return await readFile(options.directory, reference.path)
    } catch (error) {
      throw explain(error, reference.path)
    }
  },
})
