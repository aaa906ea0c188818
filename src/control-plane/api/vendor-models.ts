import { credentialsStatus } from '../access/access-details.ts'
import { failureText, integrationStatus } from '../access/integration-status.ts'
import { presentServers, secretStoreModel } from '../access/integrations.ts'
import type {
  ConnectorRecord,
  GrantRecord,
  InstanceRecord,
  IntegrationRecord,
  RequestRecord,
  ServerRecord,
  UserRecord,
} from '../access/model.ts'
import { grantStatus, requestStatus, sourceId, type Target } from '../access/requests.ts'
import type { Tx } from '../store/store.ts'

export const SSH_TYPE = 'ssh'
const CATEGORY = 'network-management'
export const RESOURCE_TYPE = { id: 'ssh-server', label: 'SSH Server' } as const

const instant = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString())

const latest = (servers: readonly ServerRecord[]): number | null =>
  servers.reduce<number | null>((last, { inspectedAt }) => Math.max(last ?? 0, inspectedAt ?? 0) || null, null)

/** IntegrationV4, and `details`, which the v2 model has and people need. */
export const integrationModel = async (tx: Tx, integration: IntegrationRecord) => {
  const servers = await presentServers(tx, integration.id)
  return {
    id: integration.id,
    name: integration.name,
    type: SSH_TYPE,
    category: CATEGORY,
    connector_id: integration.connectorId,
    ...integrationStatus(integration.disabled === true, servers),
    last_sync_time: instant(latest(servers)),
    integration_config: integration.config,
    secret_store_config: secretStoreModel(integration.secretStore),
    connected_resource_types: [RESOURCE_TYPE.id],
    custom_access_details: null,
    owner: null,
    owners_mapping: null,
    ...integration.extra,
  }
}

/** ResourceResponse, and what people want to know about a server. */
export const resourceModel = (target: Target) => {
  const { server } = target
  return {
    id: server.id,
    source_id: sourceId(target),
    name: server.name,
    type: RESOURCE_TYPE.id,
    status: {
      status: server.removedAt !== null ? 'Deleted' : server.failure ? 'Error' : 'Active',
      message: server.failure ? failureText(server) : null,
    },
    host: server.host,
    port: server.port,
    tags: server.tags,
    os: server.inspection?.os.prettyName ?? null,
    host_keys: server.hostKeys,
    jumps: (server.jumps ?? []).map(({ host, port, user, hostKeys }) => ({ host, port, user, host_keys: hostKeys })),
    /** What it shows instead, refused; to be put into `host_keys` of the integration's server if it is right. */
    presented_host_keys: server.failure?.hostKeys ?? [],
    /** Which key of the secret it took at the last look that came to an end: `current` still needs the old one. */
    login_key: server.inspection?.loginKey ?? null,
    /** Of that look, those included that keep nobody out yet. */
    problems: server.inspection?.problems ?? [],
    last_inspected: instant(server.inspectedAt),
  }
}

const PROVIDER_KEYS = { aws: 'aws_account_id', gcp: 'project_id', azure: 'subscription_id' } as const

const cloudMetadata = ({ cloud }: InstanceRecord) => {
  const account = cloud.provider in PROVIDER_KEYS ? PROVIDER_KEYS[cloud.provider as keyof typeof PROVIDER_KEYS] : null
  return {
    region: cloud.region ?? null,
    local_deploy: cloud.provider === 'none',
    ...(account ? { [account]: cloud.accountId ?? null } : {}),
  }
}

/** ConnectorV3: one session per live instance. */
export const connectorModel = (connector: ConnectorRecord, live: readonly InstanceRecord[], newestVersion: string) => ({
  id: connector.id,
  name: connector.name,
  status: live.length > 0 ? 'CONNECTED' : 'DISCONNECTED',
  version: connector.version,
  last_connected: instant(connector.lastSeenAt),
  is_latest_version: connector.version === newestVersion,
  cloud_provider_type: connector.cloud.provider.toUpperCase(),
  sessions: live.map((instance) => ({
    id: instance.id,
    last_connected_time: instant(instance.lastSeenAt),
    metadata: { connector_version: instance.version, cloud_provider_metadata: cloudMetadata(instance) },
  })),
})

const integrationPartial = ({ id, name }: { id: string; name: string }) => ({ id, name })

const identity = (user: UserRecord) => ({ id: user.id, source_id: user.email })

const findTargets = async (tx: Tx, request: RequestRecord): Promise<ReadonlyMap<string, Target>> => {
  const targets = new Map<string, Target>()
  for (const { serverId } of request.entitlements) {
    const server = await tx.servers.get(serverId)
    const integration = server ? await tx.integrations.get(server.integrationId) : null
    if (server && integration) targets.set(serverId, { server, integration })
  }
  return targets
}

const revocationDate = (request: RequestRecord, grants: readonly GrantRecord[]): string | null => {
  const ends = grants.map((grant) => grant.end?.at ?? grant.notAfter)
  return ends.length === 0 || request.decision !== 'approved' ? null : instant(Math.max(...ends))
}

/** AccessRequestV4, and why it failed where it did. */
export const requestModel = async (tx: Tx, request: RequestRecord) => {
  const grants = await tx.grants.byRequest(request.id)
  const user = await tx.users.get(request.userId)
  const targets = [...(await findTargets(tx, request)).values()]
  const integrations = new Map(targets.map(({ integration }) => [integration.id, integration]))
  return {
    id: request.id,
    status: requestStatus(request, grants),
    duration_in_sec: request.durationMs / 1000,
    justification: request.justification ?? '',
    creation_date: instant(request.createdAt),
    revocation_date: revocationDate(request, grants),
    custom_fields: request.customFields,
    access_groups: [...integrations.values()].map((integration) => ({
      integration: integrationPartial(integration),
      resource_types: [RESOURCE_TYPE],
    })),
    requestor: user ? identity(user) : null,
    grantee: user ? identity(user) : null,
    bundle: null,
    failures: grants.flatMap(({ id, lastFailure }) =>
      lastFailure ? [{ grant_id: id, ...failureModel(lastFailure) }] : [],
    ),
  }
}

const failureModel = (failure: NonNullable<GrantRecord['lastFailure']>) => ({
  code: failure.code,
  message: failure.message,
  hint: failure.hint,
  at: instant(failure.at),
  during: failure.state,
})

const resourcePartial = (target: Target) => ({
  id: target.server.id,
  source_id: sourceId(target),
  type: RESOURCE_TYPE,
  name: target.server.name,
})

/** AccessRequestEntitlementV4: each resource and permission with the state of its grant. */
export const requestEntitlements = async (tx: Tx, request: RequestRecord) => {
  const grants = await tx.grants.byRequest(request.id)
  const targets = await findTargets(tx, request)
  return request.entitlements.flatMap(({ serverId, permission }) => {
    const target = targets.get(serverId)
    if (!target) return []
    const grant = grants.find((one) => one.serverId === serverId)
    return [
      {
        integration: integrationPartial(target.integration),
        resource: resourcePartial(target),
        permission: { name: permission },
        status: grant ? grantStatus(grant) : requestStatus(request, grants),
      },
    ]
  })
}

/** AvailableEntitlementV1 */
export const availableEntitlement = (target: Target, permission: string) => ({
  integration: integrationPartial(target.integration),
  resource: resourcePartial(target),
  permission: { id: permission, source_id: permission, name: permission },
})

/** AccessSessionV1: a grant that can be used now. */
export const sessionModel = (grant: GrantRecord) => ({
  id: grant.id,
  name: `${grant.integration.name}/${grant.server.name}`,
  request_ids: [grant.requestId],
  integration: integrationPartial(grant.integration),
  credentials_status: credentialsStatus(grant),
  can_reset_credentials: false,
  login: grant.login,
  host: grant.server.host,
  port: grant.server.port,
  groups: grant.groups,
  valid_until: instant(grant.certificate?.validBefore ?? grant.notAfter),
})

/** Our own: all that an admin has to know about a grant, and nothing that would let them use it. */
export const grantModel = (grant: GrantRecord) => ({
  id: grant.id,
  request_id: grant.requestId,
  user_id: grant.userId,
  person: grant.person,
  login: grant.login,
  connector_id: grant.connectorId,
  integration: integrationPartial(grant.integration),
  server: { id: grant.serverId, name: grant.server.name, host: grant.server.host, port: grant.server.port },
  groups: grant.groups,
  generation: grant.generation,
  state: grant.state,
  status: grantStatus(grant),
  not_before: instant(grant.notBefore),
  not_after: instant(grant.notAfter),
  host_id: grant.hostId,
  on_host_expiry: grant.present?.onHostExpiry ?? null,
  end: grant.end && { reason: grant.end.reason, at: instant(grant.end.at), by: grant.end.by },
  closed: grant.closed && { how: grant.closed.how, at: instant(grant.closed.at) },
  revocation_unconfirmed: grant.state === 'absent' && (grant.closed === null || grant.closed.how === 'abandoned'),
  last_failure: grant.lastFailure && failureModel(grant.lastFailure),
  result: grant.absent,
})
