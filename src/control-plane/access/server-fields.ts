import { z } from 'zod'
import { parsePublicKey } from './public-key.ts'

/** As many as a job may carry. */
export const MAX_HOST_KEYS = 64

export const PortInput = z
  .union([z.int(), z.string().regex(/^[0-9]{1,5}$/, 'must be a number from 1 to 65535')], {
    error: 'must be a number from 1 to 65535',
  })
  .transform(Number)
  .pipe(z.int().min(1, 'must be a number from 1 to 65535').max(65535, 'must be a number from 1 to 65535'))

/** A line as /etc/ssh/ssh_host_*_key.pub has it; the comment is dropped. */
const HostKeyInput = z.string({ error: 'must be a host key: type and base64' }).transform((text, context) => {
  const parsed = parsePublicKey(text)
  if (parsed.ok) return parsed.key
  context.addIssue({ code: 'custom', message: parsed.problem })
  return z.NEVER
})

export const HostKeysInput = z
  .array(HostKeyInput, { error: 'must be a list of host keys' })
  .max(MAX_HOST_KEYS, `at most ${MAX_HOST_KEYS} host keys`)
  .nullish()
  .transform((keys) => (keys ? [...new Set(keys)] : undefined))
