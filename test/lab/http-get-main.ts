/** Fetches the URLs of its arguments, one after the other, and prints one line of JSON: a list of {status, body}. */
const answers: { status: number; body: string }[] = [];
for (const url of process.argv.slice(2)) {
  const response = await fetch(url).catch(
    (error: Error) => new Response(String(error.cause ?? error), { status: 599 }),
  );
  answers.push({ status: response.status, body: await response.text() });
}
process.stdout.write(`${JSON.stringify(answers)}\n`);
