import { PublicKeyError, parsePublicKey as readKey } from '../../protocol/public-key.ts'

const MAX_INPUT = 8192

export type ParsedKey = { ok: true; key: string } | { ok: false; problem: string }

/** What people send by mistake, told in words that help; null where the text may be a public key. */
const mistake = (text: string, type: string): string | null => {
  if (text.length > MAX_INPUT) return 'too long for a public key'
  if (/PRIVATE KEY/.test(text)) return 'this is a private key; send the public half (the .pub file)'
  if (/[\r\n\0]/.test(text)) return 'one key on one line is expected'
  return /-cert-v0\d@openssh\.com$/.test(type) ? 'this is a certificate; send the plain public key' : null
}

/**
 * Reads a line as a `.pub` file has it and gives `type base64`, written anew: comments and anything that hides behind
 * them never reach a server.
 */
export const parsePublicKey = (text: string): ParsedKey => {
  const line = text.trim()
  const [type = '', base64 = ''] = line.split(/[ \t]+/)
  const problem = mistake(line, type)
  if (problem !== null) return { ok: false, problem }
  try {
    return { ok: true, key: readKey(`${type} ${base64}`).line }
  } catch (error) {
    if (error instanceof PublicKeyError) return { ok: false, problem: error.message }
    throw error
  }
}
