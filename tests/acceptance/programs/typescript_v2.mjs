// The tour with the TypeScript client, version 2. What it saw goes to stdout as JSON; see tour.py for what is asked.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const { door, era, session_id } = JSON.parse(process.argv[2]);
const seen = {};

const mode = era === "modern" ? "auto" : "legacy";
const client = new Client({ name: "typescript-v2", version: "1" }, { versionNegotiation: { mode } });
const told = new Promise((resolve) => {
  client.setNotificationHandler("notifications/resources/updated", (notification) => resolve(notification.params.uri));
});
const transport = door.url
  ? new StreamableHTTPClientTransport(new URL(door.url), { requestInit: { headers: door.headers } })
  : new StdioClientTransport({ ...door, stderr: "inherit" });
await client.connect(transport);
seen.protocol = client.getNegotiatedProtocolVersion();
seen.server = client.getServerVersion().name;

const call = async (name, args) => (await client.callTool({ name, arguments: args })).structuredContent;
seen.tools = (await client.listTools()).tools.map((tool) => tool.name);
seen.created = await call("create_session", { session_id, title: "From TypeScript" });
seen.task = await call("delegate_task", { agent: "echo", description: "hello", session_id, wait: 20 });
const missing = await client.callTool({ name: "get_task", arguments: { task_id: "no_such_task" } });
seen.is_error = missing.isError;

const uri = `session://${session_id}`;
seen.resources = (await client.listResources()).resources.map((resource) => resource.uri);
seen.templates = (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate);
seen.read = JSON.parse((await client.readResource({ uri })).contents[0].text);
seen.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name);
seen.recap = (await client.getPrompt({ name: "recap", arguments: { session_id } })).messages[0].content.text;
const argument = { name: "session_id", value: session_id.slice(0, -1) };
const completed = await client.complete({ ref: { type: "ref/prompt", name: "recap" }, argument });
seen.completion = completed.completion.values;

const following = era === "modern" ? await client.listen({ resourceSubscriptions: [uri] }) : undefined;
if (!following) await client.subscribeResource({ uri });
await call("update_session", { session_id, status: "paused" });
seen.told = await told;
await following?.close();

await client.close();
console.log(JSON.stringify(seen));
