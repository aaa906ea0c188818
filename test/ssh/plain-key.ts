import ssh2 from 'ssh2'
import { type LoginKey, loginKeyOf } from '../../src/secrets/private-key.ts'

/** A key of a test's own making, in the clear as ssh-keygen writes it. */
export const plainKey = (privateKey: string): LoginKey => {
  const parsed = [ssh2.utils.parseKey(privateKey)].flat()[0]
  if (parsed === undefined || parsed instanceof Error) throw new Error('not a key')
  return loginKeyOf(parsed)
}
