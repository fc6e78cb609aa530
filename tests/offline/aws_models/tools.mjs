// The Node checkers behind one door: {"tool": "iam" | "asl" | "jsonata", "cases": [...]} on stdin, a JSON list on stdout.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'

const require = createRequire(import.meta.url)

async function iam(cases) {
  const { runSimulation } = await import('@cloud-copilot/iam-simulate')
  const decisions = []
  for (const simulation of cases) {
    const outcome = await runSimulation(simulation, { simulationMode: 'Strict' })
    const results = outcome.resultType === 'wildcard' ? outcome.results : outcome.result ? [outcome.result] : []
    decisions.push({
      result: outcome.overallResult ?? 'Error',
      error: outcome.errors ? JSON.stringify(outcome.errors) : '',
      ignored: [...new Set(results.flatMap((result) => result.ignoredContextKeys ?? []))],
    })
  }
  return decisions
}

function asl(cases) {
  const validate = require('asl-validator')
  return cases.map((definition) => {
    const { isValid, errors } = validate(definition, { checkPaths: true, checkArn: true })
    return isValid ? [] : errors.map((error) => [error['Error code'], error.Message ?? error.message].filter(Boolean).join(': '))
  })
}

async function jsonata(cases) {
  const compile = require('jsonata')
  const results = []
  for (const { expression, bindings } of cases) {
    try {
      const compiled = compile(expression)
      compiled.registerFunction('parse', text => JSON.parse(text)) // Step Functions' own addition
      const value = await compiled.evaluate({}, bindings)
      results.push(value === undefined ? { undefined: true } : { value })
    } catch (error) {
      results.push({ error: String(error.message ?? error) })
    }
  }
  return results
}

const request = JSON.parse(readFileSync(0, 'utf8'))
const tools = { iam, asl, jsonata }
process.stdout.write(JSON.stringify(await tools[request.tool](request.cases)))
