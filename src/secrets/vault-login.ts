import { readFile } from 'node:fs/promises'
import type { JobError } from '../host/errors.ts'
import { type Environment, nodeAgents } from './network.ts'
import { ATTEMPT_MS, accessDenied, wordOf } from './store-errors.ts'
import type { VaultLogin } from './vault-config.ts'

/** What is sent to `auth/MOUNT/login`, or a token that needs no login. Everything in a file is read anew each time. */
export type VaultProof =
  | { readonly token: string }
  | { readonly mount: string; readonly body: Readonly<Record<string, string>> }

const unreadable = (what: string, error: unknown): JobError =>
  accessDenied(`the file of Vault's ${what} cannot be read (${wordOf(error)})`, 'Look at its path, owner and mode.')

const readWord = async (file: string, what: string): Promise<string> => {
  try {
    return (await readFile(file, 'utf8')).trim()
  } catch (error) {
    throw unreadable(what, error)
  }
}

const BODY = 'Action=GetCallerIdentity&Version=2011-06-15'

/** Signature version 4 of one fixed request, which Vault sends on to AWS to see whose it is. By the SDK's own signer. */
const signIdentity = async (region: string | null, serverId: string | null, environment: Environment) => {
  const [{ SecretsManagerClient }, { SignatureV4 }] = await Promise.all([
    import('@aws-sdk/client-secrets-manager'),
    import('@smithy/signature-v4'),
  ])
  const signingRegion = region ?? 'us-east-1'
  const hostname = region === null ? 'sts.amazonaws.com' : `sts.${region}.amazonaws.com`
  // Only for what it finds: the credentials, by the SDK's usual order.
  const requestHandler = { ...nodeAgents(environment), requestTimeout: ATTEMPT_MS, throwOnRequestTimeout: true }
  const client = new SecretsManagerClient({ region: signingRegion, requestHandler })
  const { credentials, sha256 } = client.config
  const signer = new SignatureV4({ service: 'sts', region: signingRegion, credentials, sha256 })
  try {
    const { headers } = await signer.sign({
      method: 'POST',
      protocol: 'https:',
      hostname,
      path: '/',
      headers: {
        host: hostname,
        'content-type': 'application/x-www-form-urlencoded; charset=utf-8',
        ...(serverId === null ? {} : { 'x-vault-aws-iam-server-id': serverId }),
      },
      body: BODY,
    })
    return { url: `https://${hostname}/`, headers }
  } catch (error) {
    throw accessDenied(
      `there are no AWS credentials to log in to Vault with (${wordOf(error)})`,
      'Give the connector a role.',
    )
  } finally {
    client.destroy()
  }
}

const base64 = (text: string): string => Buffer.from(text).toString('base64')

const awsProof = async (login: Extract<VaultLogin, { method: 'aws' }>, environment: Environment) => {
  const { mount, role, region, serverId } = login
  const { url, headers } = await signIdentity(region, serverId, environment)
  return {
    mount,
    body: {
      role,
      iam_http_request_method: 'POST',
      iam_request_url: base64(url),
      iam_request_body: base64(BODY),
      iam_request_headers: base64(JSON.stringify(headers)),
    },
  }
}

/** Fails with `secret_access_denied` for a file that cannot be read, or where AWS gives no credentials. */
export const proveVaultLogin = async (login: VaultLogin, environment: Environment): Promise<VaultProof> => {
  switch (login.method) {
    case 'token':
      return { token: login.file === null ? (login.token?.reveal() ?? '') : await readWord(login.file, 'token') }
    case 'approle': {
      const { mount, roleId, secretId, secretIdFile } = login
      const secret = secretIdFile === null ? (secretId?.reveal() ?? null) : await readWord(secretIdFile, 'secret id')
      return { mount, body: { role_id: roleId, ...(secret === null ? {} : { secret_id: secret }) } }
    }
    case 'kubernetes': {
      const { mount, role, jwtFile } = login
      return { mount, body: { role, jwt: await readWord(jwtFile, 'service account token') } }
    }
    case 'aws':
      return await awsProof(login, environment)
  }
}
