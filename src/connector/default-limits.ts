import { isIP } from 'node:net'
import type { SecretReference } from '../protocol/integration.ts'
import type { CheckedAddress } from '../ssh/socket.ts'
import { kindOf } from './addresses.ts'
import type { Denial } from './denial.ts'
import { isOddNumber, type Place } from './host-rules.ts'
import { secretProblem } from './secret-names.ts'

/** The limits that hold whatever a guard file says. Each is decided by looking at one thing alone. */

export interface DefaultLimits {
  readonly secretDirectory: string
  /** Only `standalone` (and tests) may reach servers on its own machine. */
  readonly allowLoopback: boolean
}

const always = (message: string, hint = 'This limit stands whatever APONO_GUARD_FILE says.'): Denial => ({
  message,
  hint,
})

export const secretBeyondDefaults = (reference: SecretReference, { secretDirectory }: DefaultLimits): Denial | null => {
  const problem = secretProblem(reference)
  if (problem !== null) return always(problem)
  if (reference.type !== 'file' || reference.path.startsWith(`${secretDirectory}/`)) return null
  const hint = 'Keep the secret there, or set APONO_SECRET_DIR on the connector.'
  return always(`secret files are read from ${secretDirectory} only (APONO_SECRET_DIR)`, hint)
}

export const addressBeyondDefaults = (address: CheckedAddress, { allowLoopback }: DefaultLimits): Denial | null => {
  const kind = kindOf(address)
  if (kind === 'link_local') return always('the server is at a link-local address (cloud metadata lives there)')
  return kind === 'loopback' && !allowLoopback ? always("the server is the connector's own machine") : null
}

/** RFC 6761's name, and what Debian and Red Hat write into every /etc/hosts. */
const OWN_NAME = /^(?:(?:.*\.)?localhost|localhost[46]?(?:\.localdomain[46]?)?|ip6-(?:localhost|loopback))\.?$/i

/** What is plain without asking DNS. Names behind a jump host are looked up over there and mean there what they mean. */
export const placeBeyondDefaults = ({ host }: Place, limits: DefaultLimits): Denial | null => {
  const family = isIP(host)
  if (family !== 0) return addressBeyondDefaults({ address: host, family: family === 6 ? 6 : 4 }, limits)
  // Whoever resolves it takes it for an address, and not everybody for the same one.
  if (isOddNumber(host)) return always('a server has an odd number for an address')
  return !limits.allowLoopback && OWN_NAME.test(host) ? always('the server is the machine that connects to it') : null
}
