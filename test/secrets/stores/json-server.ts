import type { IncomingMessage } from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Certificate } from './certificates.ts'

export type JsonAnswer = { status: number; body?: unknown }

export type JsonServer = { url: string; close(): Promise<void> }

/** An HTTPS server of the loopback that answers in JSON, for stubs of stores that nobody else has. */
export const startJsonServer = async (
  certificate: Certificate,
  answer: (request: IncomingMessage, path: string, body: unknown) => JsonAnswer,
): Promise<JsonServer> => {
  const server = https.createServer({ ...certificate }, async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    const path = decodeURIComponent(new URL(request.url ?? '/', 'https://x').pathname)
    const { status, body } = answer(request, path, text === '' ? null : JSON.parse(text))
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body ?? {}))
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}
