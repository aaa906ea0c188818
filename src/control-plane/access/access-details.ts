import type { Tx } from '../store/store.ts'
import { audit } from './audit.ts'
import type { Deps } from './deps.ts'
import { conflict } from './domain-error.ts'
import { type GrantRecord, grantPhase, type UserRecord } from './model.ts'

/** As the vendor's model wants it: `parameters` are strings. */
export interface AccessDetails {
  readonly instructions: string
  readonly cli: string | null
  readonly parameters: Readonly<Record<string, string>>
}

export type CredentialsStatus = 'AVAILABLE' | 'VIEWED' | 'NOT_APPLICABLE'

export const credentialsStatus = (grant: GrantRecord): CredentialsStatus => {
  if (grant.keyOrigin === 'person') return 'NOT_APPLICABLE'
  return grant.sealedPrivateKey === null ? 'VIEWED' : 'AVAILABLE'
}

const SSH_PORT = 22

/** How known_hosts names a server. */
const knownHostsName = (host: string, port: number): string => (port === SSH_PORT ? host : `[${host}]:${port}`)

/**
 * Values are from allow-lists without a quote in them (protocol/, CERTIFICATE in ensure-outcomes.ts, our own key
 * writer); this makes sure of it once more, because the text is going to be run.
 */
const quoted = (value: string): string => {
  if (/[^A-Za-z0-9@%+=:,./_[\] \n-]/.test(value)) throw new Error('a value is not fit for a command')
  return `'${value}'`
}

const writeFile = (name: string, lines: readonly string[]): string =>
  `printf '%s\\n' ${lines.map(quoted).join(' ')} >"$d/${name}"`

interface Parts {
  readonly grant: GrantRecord
  readonly certificate: string
  readonly hostKeys: readonly string[]
  readonly privateKey: string | null
}

const OWN_KEY = `"\${APONO_KEY:-$HOME/.ssh/id_ed25519}"`

/** For `sh -c`. What follows it (`sh -c "$cli" ssh id`) goes to ssh, so that it can run a command too. */
const command = ({ grant, certificate, hostKeys, privateKey }: Parts): string => {
  const { host, port } = grant.server
  const hosts = hostKeys.map((key) => `${knownHostsName(host, port)} ${key}`)
  const trustHosts =
    hosts.length > 0
      ? ['-o UserKnownHostsFile="$d/known_hosts"', '-o GlobalKnownHostsFile=/dev/null', '-o StrictHostKeyChecking=yes']
      : []
  return [
    'umask 077',
    'd=$(mktemp -d) || exit 1',
    `trap 'rm -rf "$d"' EXIT HUP INT TERM`,
    ...(privateKey === null ? [] : [writeFile('key', privateKey.trimEnd().split('\n'))]),
    writeFile('key-cert.pub', [certificate]),
    ...(hosts.length > 0 ? [writeFile('known_hosts', hosts)] : []),
    [
      'ssh',
      `-i ${privateKey === null ? OWN_KEY : '"$d/key"'}`,
      '-o CertificateFile="$d/key-cert.pub"',
      '-o IdentitiesOnly=yes',
      ...trustHosts,
      `-p ${port}`,
      quoted(`${grant.login}@${host}`),
      '"$@"',
    ].join(' '),
  ].join('\n')
}

const until = (grant: GrantRecord): string => new Date(grant.certificate?.validBefore ?? grant.notAfter).toISOString()

const instructions = (grant: GrantRecord, privateKey: string | null): string => {
  const where = `${grant.login} on ${grant.server.host}, port ${grant.server.port}`
  const lines = [`You have access as ${where}, until ${until(grant)}.`]
  if (grant.keyOrigin === 'person') {
    lines.push('Run the command; it uses ~/.ssh/id_ed25519. For another key, set APONO_KEY to its path.')
  } else if (privateKey !== null) {
    lines.push('Run the command. The private key in it is shown this once; keep the command if you need it again.')
  } else {
    lines.push('The private key was shown before and is not kept. If you lost it, request access again,')
    lines.push('best with your own public key in custom_fields.public_key.')
  }
  return lines.join('\n')
}

const parameters = ({ grant, certificate, hostKeys, privateKey }: Parts): Record<string, string> => ({
  login: grant.login,
  host: grant.server.host,
  port: String(grant.server.port),
  certificate,
  host_keys: hostKeys.join('\n'),
  valid_before: until(grant),
  ...(privateKey === null ? {} : { private_key: privateKey }),
})

/** Forgets the private key in the same transaction that reads it, so that two readers never both get it. */
const takePrivateKey = async (tx: Tx, deps: Deps, grant: GrantRecord, user: UserRecord): Promise<string | null> => {
  if (grant.sealedPrivateKey === null) return null
  const privateKey = deps.seal.open(grant.sealedPrivateKey, grant.id)
  await tx.grants.put({ ...grant, sealedPrivateKey: null })
  await audit(tx, deps, user.id, 'grant.private_key_shown', grant.id)
  return privateKey
}

/** Reading them is an act: a private key of our making is in the first answer only. */
export const accessDetails = async (
  tx: Tx,
  deps: Deps,
  user: UserRecord,
  grant: GrantRecord,
): Promise<AccessDetails> => {
  if (grantPhase(grant) !== 'active' || !grant.certificate || !grant.present) {
    throw conflict('this access is not active')
  }
  const privateKey = await takePrivateKey(tx, deps, grant, user)
  const live = await tx.servers.get(grant.serverId)
  const hostKeys = grant.present.hostKeys.length > 0 ? grant.present.hostKeys : (live?.hostKeys ?? [])
  const parts: Parts = { grant, certificate: grant.certificate.text, hostKeys, privateKey }
  const usable = grant.keyOrigin === 'person' || privateKey !== null
  return {
    instructions: instructions(grant, privateKey),
    cli: usable ? command(parts) : null,
    parameters: parameters(parts),
  }
}
