import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { describe, expect, it } from 'vitest'
import { connectorProtocolDocument, connectorProtocolText, DOCUMENT_PATH } from '../../src/protocol/openapi.ts'
import { ensureJob } from './examples.ts'

describe('the OpenAPI document', () => {
  it('is what the schemas say: run `npm run docs` after changing them', () => {
    expect(readFileSync(DOCUMENT_PATH, 'utf8')).toBe(connectorProtocolText())
  })

  it('refers only to schemas that it has, and has all six calls', () => {
    const document = connectorProtocolDocument() as {
      paths: object
      components: { schemas: Readonly<Record<string, object>> }
    }
    const names = [...JSON.stringify(document).matchAll(/"#\/components\/schemas\/([^"]+)"/g)].map(([, name]) => name)
    expect(names.length).toBeGreaterThan(20)
    for (const name of names) expect(Object.keys(document.components.schemas)).toContain(name)
    expect(Object.keys(document.paths).map((path) => path.replace('/connector/v1/', ''))).toEqual([
      'register',
      'claim',
      'renew',
      'report',
      'grants',
      'deregister',
    ])
  })

  it('judges a job as the schemas do', () => {
    const ajv = new Ajv2020({ strict: false, formats: { 'date-time': true } })
    ajv.addSchema({ $id: 'doc', ...connectorProtocolDocument() })
    const validate = ajv.getSchema('doc#/components/schemas/Job')
    if (validate === undefined) throw new Error('the document has no Job')
    expect(validate(ensureJob())).toBe(true)
    expect(validate({ ...ensureJob(), grant: { ...ensureJob().grant, login: 'a;b' } })).toBe(false)
  })
})
