import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Random } from '../observability/random.ts'
import { SEAL_KEY_BYTES } from './access/key-seal.ts'
import type { ControlPlaneConfig } from './config.ts'

const decode = (text: string, source: string): Buffer => {
  const key = Buffer.from(text.trim(), 'base64')
  if (key.length !== SEAL_KEY_BYTES) throw new Error(`${source} must hold ${SEAL_KEY_BYTES} bytes in base64`)
  return key
}

/** `wx`: of two that start at once one writes, and the other reads what was written. */
const makeKeyFile = async (path: string, random: Random): Promise<void> => {
  const text = `${random(SEAL_KEY_BYTES).toString('base64')}\n`
  await writeFile(path, text, { mode: 0o600, flag: 'wx' }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error
  })
}

/** The key that private keys of our making are encrypted with, from the environment or from the state folder. */
export const loadEncryptionKey = async (config: ControlPlaneConfig, random: Random): Promise<Buffer> => {
  const given = config.encryptionKey
  if (given && 'value' in given) return decode(given.value, 'APONO_ENCRYPTION_KEY')
  if (given) return decode(await readFile(given.file, 'utf8'), 'APONO_ENCRYPTION_KEY_FILE')
  const path = join(config.stateDir, 'encryption.key')
  await makeKeyFile(path, random)
  return decode(await readFile(path, 'utf8'), path)
}
