import { readFile } from 'node:fs/promises'
import { type Secret, secretOf } from '../secrets/secret.ts'
import { TOKEN, type TokenConfig } from './config.ts'

export interface TokenSource {
  current(): Promise<Secret>
  /** Reads the file again. True when it held another token than before. */
  refresh(): Promise<boolean>
}

const readToken = async (file: string): Promise<Secret | null> => {
  const text = await readFile(file, 'utf8').catch(() => '')
  return TOKEN.test(text.trim()) ? secretOf(text.trim()) : null
}

const fileSource = (file: string): TokenSource => {
  let held: Secret | null = null
  return {
    current: async () => {
      held ??= await readToken(file)
      return held ?? secretOf('unreadable-token-file')
    },
    refresh: async () => {
      const fresh = await readToken(file)
      if (fresh === null || fresh.reveal() === held?.reveal()) return false
      held = fresh
      return true
    },
  }
}

export const createTokenSource = (config: TokenConfig): TokenSource =>
  config.kind === 'file' ? fileSource(config.path) : { current: async () => config.token, refresh: async () => false }
