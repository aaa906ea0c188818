import { generateKeyPairSync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { DeleteSecretCommand, GetSecretValueCommand } from '@aws-sdk/client-secrets-manager'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { JobError } from '../../src/host/errors.ts'
import { awsPolicy, awsStore } from '../../src/secrets/aws.ts'
import type { AnySecretStore } from '../../src/secrets/secret-store.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { type HttpFaultProxy, startHttpFaultProxy } from './stores/fault-proxy.ts'
import { adminClient, awsError, type Moto, putSecret, REGION, startMoto } from './stores/moto.ts'

const TAGGED = { 'apono-connector-read': 'true' }
const reference = (secretId: string, region = REGION) => ({ type: 'aws' as const, region, secretId })
const signal = new AbortController().signal

let moto: Moto
let proxy: HttpFaultProxy
/** As the SDK finds it by itself. */
const point = (url: string): void => {
  process.env['AWS_ENDPOINT_URL_SECRETS_MANAGER'] = url
}
beforeAll(async () => {
  Object.assign(process.env, { AWS_ACCESS_KEY_ID: 'AKIDTEST', AWS_SECRET_ACCESS_KEY: 'secret-of-the-test' })
  moto = await startMoto()
  proxy = await startHttpFaultProxy(moto.endpoint)
  point(proxy.url)
})
afterAll(async () => {
  await proxy?.close()
  await moto?.stop()
})

const put = async (name: string, value: string | Uint8Array, tags: Record<string, string> = TAGGED) => {
  const { arn } = await putSecret(moto.endpoint, { name, value, tags })
  return { arn, reference: reference(name) }
}

conforms('aws', async () => ({
  open: () => awsStore({}),
  put: async (name, fields) => (await put(`team/${name}`, JSON.stringify(fields))).reference,
  putText: async (name, text) => (await put(`team/${name}`, text)).reference,
  missing: reference('missing'),
  hostile: [
    reference('a b'),
    reference('a\nb'),
    reference("a';rm"),
    reference(''),
    reference('a', 'evil.example.com/'),
    reference('a', 'eu-west-1.evil'),
    reference('arn:aws:secretsmanager:evil:123456789012:secret:a'),
  ],
  forbidden: async () => {
    proxy.plan(
      awsError('AccessDeniedException', 'User: arn:aws:sts::123456789012:assumed-role/connector/i-1 is not authorized'),
    )
    return { reference: reference('forbidden'), how: /"secretsmanager:ResourceTag\/apono-connector-read":"true"/ }
  },
  requests: () => proxy.requests().length,
  faults: httpFaults(proxy, awsError('ThrottlingException', 'Rate exceeded')),
  distrusted: async () => {
    const impostor = await startHttpFaultProxy(moto.endpoint, { certificate: await selfSigned() })
    point(impostor.url)
    onTestFinished(async () => {
      point(proxy.url)
      await impostor.close()
    })
    return { store: awsStore({}), sent: () => impostor.requests().length }
  },
  stop: async () => undefined,
}))

describe('AWS', () => {
  const open = (environment = {}): AnySecretStore => {
    const store = awsStore(environment)
    onTestFinished(async () => void (await store.close?.()))
    return store
  }
  const read = (of: ReturnType<typeof reference>, store = open()) => store.read(of as never, { signal })
  const failure = (of: ReturnType<typeof reference>): Promise<JobError> =>
    read(of).then(
      () => Promise.reject(new Error('was read')),
      (error: JobError) => error,
    )

  test('gives what is stored as bytes, too', async () => {
    const { reference: of } = await put('binary', Buffer.from('{"base64_private_key":"k"}'))
    expect((await read(of)).privateKey.reveal()).toBe('k')
    const odd = await put('binary-odd', Buffer.from([0xff, 0xfe, 0x01]))
    expect(await failure(odd.reference)).toMatchObject({
      code: 'secret_malformed',
      message: expect.stringMatching(/binary data$/),
    })
  })

  test('is asked in the region of the ARN, whatever the integration says beside it', async () => {
    const { arn } = await put('by/arn', '{"base64_private_key":"k"}')
    expect((await read(reference(arn, 'us-east-1'))).privateKey.reveal()).toBe('k')
    expect(proxy.requests().at(-1)?.headers.authorization).toContain(`/${REGION}/secretsmanager/`)
  })

  test.each([{}, { 'apono-connector-read': 'false' }, { 'Apono-connector-read': 'true' }])(
    'gives nothing that is not tagged for it, though it could: %j',
    async (tags) => {
      const name = `tags/${Object.values(tags).join('')}${Object.keys(tags).join('').slice(0, 1)}`
      const { reference: of } = await put(name, '{"base64_private_key":"k"}', tags)
      const before = proxy.requests().length
      expect(await failure(of)).toMatchObject({
        code: 'secret_access_denied',
        hint: `aws secretsmanager tag-resource --secret-id '${name}' --tags Key=apono-connector-read,Value=true --region ${REGION}`,
      })
      const asked = proxy
        .requests()
        .slice(before)
        .map(({ headers }) => headers['x-amz-target'])
      expect(asked).toEqual(['secretsmanager.DescribeSecret'])
    },
  )

  test('names who may not read, and what they lack', async () => {
    proxy.plan(
      awsError('AccessDeniedException', 'User: arn:aws:sts::123456789012:assumed-role/connector/i-1 is not authorized'),
    )
    const error = await failure(reference('denied'))
    expect(error.message).toContain('arn:aws:sts::123456789012:assumed-role/connector/i-1')
    expect(error.hint).toContain(awsPolicy(`arn:aws:secretsmanager:${REGION}:*:secret:denied-??????`))
  })

  test('tells a key that may not be used from a secret that may not be read', async () => {
    await put('kms', '{"base64_private_key":"k"}')
    for (const error of [
      awsError('AccessDeniedException', 'Access to KMS is not allowed'),
      awsError('DecryptionFailure', 'x'),
    ]) {
      proxy.plan({ ...error, when: ({ headers }) => headers['x-amz-target'] === 'secretsmanager.GetSecretValue' })
      expect(await failure(reference('kms'))).toMatchObject({
        code: 'secret_access_denied',
        hint: expect.stringContaining('kms:Decrypt'),
      })
    }
  })

  test('is asked anew, with new credentials, when those it had have expired', async () => {
    const { reference: of } = await put('expired', '{"base64_private_key":"k"}')
    const store = open()
    await read(of, store)
    process.env['AWS_ACCESS_KEY_ID'] = 'AKIDNEWER'
    onTestFinished(() => {
      process.env['AWS_ACCESS_KEY_ID'] = 'AKIDTEST'
    })
    proxy.plan(awsError('ExpiredTokenException', 'The security token included in the request is expired'))
    expect((await read(of, store)).privateKey.reveal()).toBe('k')
    expect(proxy.requests().at(-1)?.headers.authorization).toContain('Credential=AKIDNEWER/')
    proxy.plan(...[1, 2].map(() => awsError('ExpiredTokenException', 'expired')))
    expect(await failure(of)).toMatchObject({
      code: 'secret_access_denied',
      message: expect.stringContaining('credentials'),
    })
  })

  test('does not take a name for trouble with a key of KMS', async () => {
    proxy.plan(awsError('AccessDeniedException', 'User: x is not authorized to perform: y on resource: prod/kms-ssh'))
    expect((await failure(reference('prod/kms-ssh'))).hint).toContain('Attach this policy')
  })

  test('tells a secret without a current version from one that is not there', async () => {
    const message = "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT"
    proxy.plan(awsError('ResourceNotFoundException', message))
    expect((await failure(reference('empty'))).hint).toContain("put-secret-value --secret-id 'empty'")
  })

  test('that has no credentials for us is told as that', async () => {
    const names = ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']
    const kept = names.map((name) => process.env[name])
    for (const name of names) delete process.env[name]
    process.env['AWS_EC2_METADATA_DISABLED'] = 'true'
    onTestFinished(() => {
      names.forEach((name, index) => {
        process.env[name] = kept[index]
      })
    })
    expect(await failure(reference('any'))).toMatchObject({
      code: 'secret_access_denied',
      message: expect.stringContaining('CredentialsProviderError'),
    })
  })

  test('says that a secret is on its way out', async () => {
    await put('leaving', '{"base64_private_key":"k"}')
    await adminClient(moto.endpoint).send(new DeleteSecretCommand({ SecretId: 'leaving' }))
    expect(await failure(reference('leaving'))).toMatchObject({
      code: 'secret_not_found',
      hint: expect.stringContaining("restore-secret --secret-id 'leaving'"),
    })
  })

  test('gives the version that is current when it is changed between the two questions', async () => {
    const { reference: of } = await put('rotating', '{"base64_private_key":"old"}')
    proxy.plan({ delayMs: 300, when: ({ headers }) => headers['x-amz-target'] === 'secretsmanager.GetSecretValue' })
    const reading = read(of)
    await expect.poll(() => proxy.requests().at(-1)?.headers['x-amz-target']).toBe('secretsmanager.GetSecretValue')
    await put('rotating', '{"base64_private_key":"new"}')
    const { privateKey, version } = await reading
    const current = await adminClient(moto.endpoint).send(new GetSecretValueCommand({ SecretId: 'rotating' }))
    expect([privateKey.reveal(), version]).toEqual(['new', `${current.ARN} ${current.VersionId}`])
  })

  test('is reached through the proxy that the environment names', async () => {
    const { reference: of } = await put('proxied', '{"base64_private_key":"k"}')
    const way = await startHttpFaultProxy(moto.endpoint)
    onTestFinished(async () => {
      point(proxy.url)
      await way.close()
    })
    point('http://secretsmanager.nowhere.invalid')
    expect((await read(of, open({ HTTP_PROXY: way.url }))).privateKey.reveal()).toBe('k')
    expect(way.requests()[0]?.path).toContain('http://secretsmanager.nowhere.invalid')
    await expect(
      read(of, open({ HTTP_PROXY: way.url, NO_PROXY: 'secretsmanager.nowhere.invalid' })),
    ).rejects.toMatchObject({
      code: 'secret_store_unreachable',
    })
  })

  test('has a key pair in a secret that is as large as they come', async () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 4096 })
    const pem = privateKey.export({ type: 'pkcs1', format: 'pem' })
    const value = JSON.stringify({ base64_private_key: Buffer.from(pem).toString('base64') })
    expect((await read((await put('large', value)).reference)).privateKey.reveal()).toBe(
      Buffer.from(pem).toString('base64'),
    )
  })
})

describe('credentials that AWS gives out where the connector runs', () => {
  const OWN = ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'] as const
  /** As a container, a pod or an instance has them, and no others. */
  const withEnvironment = (environment: Record<string, string>): void => {
    const kept = { ...process.env }
    for (const name of OWN) delete process.env[name]
    Object.assign(process.env, { AWS_EC2_METADATA_DISABLED: 'true', ...environment })
    onTestFinished(() => {
      for (const name of Object.keys(environment)) delete process.env[name]
      delete process.env['AWS_EC2_METADATA_DISABLED']
      Object.assign(process.env, kept)
    })
  }
  const outcomeOf = async (store: AnySecretStore): Promise<string> =>
    await store.read(reference('team/full') as never, { signal }).then(
      () => 'read',
      ({ code }: JobError) => code,
    )
  const openStore = (): AnySecretStore => {
    const store = awsStore({})
    onTestFinished(async () => void (await store.close?.()))
    return store
  }

  const startIssuer = async (answer: () => { status: number; type: string; body: string }) => {
    const server = http.createServer((_request, response) => {
      const { status, type, body } = answer()
      response.writeHead(status, { 'content-type': type }).end(body)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  test('by ECS or EKS Pod Identity; when they cannot be had for a while, that is no refusal', async () => {
    let status = 500
    // Ended as soon as they are given, so that they are asked for every time.
    const keys = {
      AccessKeyId: 'A',
      SecretAccessKey: 'B',
      Token: 'T',
      Expiration: new Date(Date.now() + 1000).toISOString(),
    }
    const url = await startIssuer(() => ({ status, type: 'application/json', body: JSON.stringify(keys) }))
    withEnvironment({ AWS_CONTAINER_CREDENTIALS_FULL_URI: `${url}/`, AWS_CONTAINER_AUTHORIZATION_TOKEN: 't' })
    const store = openStore()
    expect(await outcomeOf(store)).toBe('secret_access_denied')
    status = 200
    expect(await outcomeOf(store)).toBe('read')
    status = 500
    await expect.poll(() => outcomeOf(store), { timeout: 10_000 }).toBe('secret_store_unreachable')
  })

  test.each([
    [403, 'AccessDenied', 'secret_access_denied', "Look at the role's trust policy"],
    [400, 'InvalidIdentityToken', 'secret_access_denied', "Look at the role's trust policy"],
    [400, 'ExpiredTokenException', 'secret_access_denied', "Look at the role's trust policy"],
    [500, 'InternalFailure', 'secret_store_unreachable', 'network path'],
  ])('by IRSA: STS answers %i %s, which is %s', async (status, error, code, hint) => {
    const body = `<ErrorResponse><Error><Type>Sender</Type><Code>${error}</Code><Message>m</Message></Error></ErrorResponse>`
    const url = await startIssuer(() => ({ status, type: 'text/xml', body }))
    const token = path.join(scratchDirectory(), 'token')
    writeFileSync(token, 'jwt')
    const role = { AWS_WEB_IDENTITY_TOKEN_FILE: token, AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/connector' }
    withEnvironment({ ...role, AWS_ENDPOINT_URL_STS: url })
    const failed = openStore().read(reference('team/full') as never, { signal })
    await expect(failed).rejects.toMatchObject({ code, hint: expect.stringContaining(hint) })
  })

  test('by IRSA, from the STS of moto', async () => {
    const token = path.join(scratchDirectory(), 'token')
    writeFileSync(token, 'jwt')
    const role = { AWS_WEB_IDENTITY_TOKEN_FILE: token, AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/connector' }
    withEnvironment({ ...role, AWS_ENDPOINT_URL_STS: moto.endpoint })
    expect(await outcomeOf(openStore())).toBe('read')
    expect(proxy.requests().at(-1)?.headers['x-amz-security-token']).toBeTruthy()
  })
})

describe('the policy in the documentation', () => {
  const asAdmin = async (action: string, parameters: Record<string, string>): Promise<string> => {
    const authorization =
      'AWS4-HMAC-SHA256 Credential=admin/20261129/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0'
    const body = new URLSearchParams({ Action: action, Version: '2010-05-08', ...parameters })
    const response = await fetch(moto.endpoint, { method: 'POST', headers: { authorization }, body })
    const text = await response.text()
    if (!response.ok) throw new Error(text)
    return text
  }
  const member = (xml: string, name: string): string => new RegExp(`<${name}>([^<]+)</${name}>`).exec(xml)?.[1] ?? ''

  /** moto knows no resources and no conditions (docs/testing.md): it is held to the actions. */
  const policyOf = (actions: readonly string[]): string => {
    const policy = JSON.parse(awsPolicy('*')) as { Statement: { Action: string[] }[] }
    return JSON.stringify({ ...policy, Statement: policy.Statement.map((one) => ({ ...one, Action: actions })) })
  }
  const ACTIONS = (JSON.parse(awsPolicy('*')) as { Statement: { Action: string[] }[] }).Statement[0]?.Action ?? []

  const readAs = async (user: string, actions: readonly string[]) => {
    await asAdmin('CreateUser', { UserName: user })
    await asAdmin('PutUserPolicy', { UserName: user, PolicyName: 'read', PolicyDocument: policyOf(actions) })
    const keys = await asAdmin('CreateAccessKey', { UserName: user })
    const before = { ...process.env }
    process.env['AWS_ACCESS_KEY_ID'] = member(keys, 'AccessKeyId')
    process.env['AWS_SECRET_ACCESS_KEY'] = member(keys, 'SecretAccessKey')
    await moto.enforceIam()
    onTestFinished(async () => {
      await moto.relaxIam()
      Object.assign(process.env, before)
    })
    return await awsStore({}).read(reference('guarded') as never, { signal })
  }

  test('is enough, and each of its actions is needed', async () => {
    await put('guarded', '{"base64_private_key":"k"}')
    expect((await readAs('enough', ACTIONS)).privateKey.reveal()).toBe('k')
    for (const action of ACTIONS) {
      await moto.relaxIam()
      const less = ACTIONS.filter((one) => one !== action)
      await expect(readAs(`without-${action.split(':')[1]}`, less)).rejects.toMatchObject({
        code: 'secret_access_denied',
      })
    }
  })
})
